//! Writes the man page and the shells' completions, made from `src/cli.rs`, into a folder:
//!
//!     cargo run --example pages -- FOLDER

#[path = "../src/cli.rs"]
mod cli;

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("name a folder")?);
    fs::create_dir_all(&folder)?;
    let mut command = cli::Cli::command();
    let page = Man::new(command.clone()).section("1");
    page.render(&mut File::create(folder.join("reconcile.1"))?)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "reconcile", &folder)?;
    }
    Ok(())
}
