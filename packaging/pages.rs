//! Writes the man page and the shells' completions, made from `src/cli.rs`, into a folder:
//!
//!     cargo run --example pages -- FOLDER

#[path = "../src/cli.rs"]
mod cli;

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

const DESCRIPTION: &str = "\
Started by cron every minute, reconcile asks BTCPay Server what became of each open invoice and brings the
SQLite database of a licensing service into agreement: it issues the missing licenses, closes dead invoices
and frees their discount slots. When there is nothing to say, it says nothing. When only a person can
decide, it says so on stderr.";

const SEE_ALSO: &str = "\
See also:
crontab(5), flock(1)
/usr/share/doc/reconcile: README.md, docs, crontab.example, schema.sql
/usr/share/doc/reconcile/examples/systemd";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("name a folder")?);
    fs::create_dir_all(&folder)?;
    let mut command = cli::Cli::command();
    write_man_page(&command, &mut File::create(folder.join("reconcile.1"))?)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "reconcile", &folder)?;
    }
    Ok(())
}

fn write_man_page(command: &Command, page: &mut File) -> io::Result<()> {
    let man = Man::new(
        command
            .clone()
            .override_usage("reconcile [OPTIONS] [INVOICE]...")
            .long_about(DESCRIPTION),
    );
    man.render_title(page)?;
    // A hyphenated variable could not be copied.
    writeln!(page, ".nh")?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    // Else the lines of its lists would be filled.
    let after_help = command.get_after_help().unwrap_or_default().to_string();
    let mut roff = Roff::new();
    for paragraph in after_help.split("\n\n").chain([SEE_ALSO]) {
        let Some((heading, lines)) = paragraph.split_once(":\n") else {
            roff.control("PP", []);
            roff.text([roman(paragraph)]);
            continue;
        };
        roff.control("SH", [heading.to_uppercase().as_str()]);
        roff.control("nf", []);
        for line in lines.lines() {
            roff.text([roman(line.trim_start())]);
        }
        roff.control("fi", []);
    }
    roff.to_writer(page)
}
