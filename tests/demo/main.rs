//! Demonstrates the main job: a shop that lost its webhooks, a dry run and a real run of the
//! program, and the database before and after. With a folder as its argument, it opens the shop
//! there and keeps it open, to be tried manually or with cron.

#[path = "../btcpay/mod.rs"]
mod btcpay;
mod shop;

use std::env;
use std::error::Error;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use btcpay::Btcpay;
use rusqlite::Connection;
use shop::{open_shop, server};
use tempfile::TempDir;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SHOWN: &str = "
SELECT i.id                                                AS invoice,
       i.buyer_email                                       AS buyer,
       i.status                                            AS status,
       iif(l.id IS NULL, '-', substr(l.id, 1, 8) || '...') AS license,
       coalesce(c.code || ' ' || r.status, '-')            AS discount
  FROM invoices i
  LEFT JOIN licenses l ON l.invoice_id = i.id
  LEFT JOIN discount_redemptions r ON r.invoice_id = i.id
  LEFT JOIN discount_codes c ON c.id = r.code_id
 ORDER BY i.id";

fn main() -> ExitCode {
    let done = match env::args_os().nth(1) {
        None => demonstrate(),
        Some(folder) => leave_open(Path::new(&folder)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate() -> Result<()> {
    let program = build_program()?;
    let folder = TempDir::new()?;
    let (database, shop) = open_shop(folder.path())?;
    let btcpay = server();

    println!(
        "A shop lost its webhooks. In BTCPay Server, Alice and Carol have paid, Bob has not, Dave\n\
         paid after the invoice had expired, and Erin is still at the checkout. The shop's database:\n"
    );
    show(&shop)?;
    run(&program, &["--dry-run"], &database, &btcpay)?;
    println!("A dry run writes nothing. Now for real:\n");
    run(&program, &[], &database, &btcpay)?;
    println!("The database afterwards:\n");
    show(&shop)?;
    println!(
        "Dave's payment waits for a person, and was told; so the next minute's run, from cron, is\n\
         silent:\n"
    );
    run_from_cron(&program, &database, &btcpay)?;
    println!(
        "\nYou accept the sale: in BTCPay, you mark Dave's invoice settled. Once an hour cron runs\n\
         --recheck, which asks about closed invoices too:\n"
    );
    btcpay.mark("btcpay-inv-4", "Settled");
    run(&program, &["--recheck"], &database, &btcpay)?;
    println!("Erin has still to pay. Nothing else is left to do.");
    Ok(())
}

fn leave_open(folder: &Path) -> Result<()> {
    let program = build_program()?;
    fs::create_dir_all(folder)?;
    if folder.join("licenses.db").exists() {
        return Err(format!(
            "{} has a shop in it already; give another folder",
            folder.display()
        )
        .into());
    }
    let (database, _) = open_shop(folder)?;
    let btcpay = server();
    let key_file = folder.join("btcpay.key");
    fs::write(&key_file, btcpay::KEY)?;
    fs::set_permissions(&key_file, Permissions::from_mode(0o600))?;
    println!("# Paste these:");
    let folder_of_it = program.parent().ok_or("where is the program?")?;
    println!("export PATH={}:\"$PATH\"", quoted(folder_of_it));
    println!("export RECONCILE_DATABASE={}", quoted(&database));
    println!("export BTCPAY_URL='{}'", btcpay.url());
    println!("export BTCPAY_STORE_ID='{}'", btcpay::STORE);
    println!("export BTCPAY_API_KEY_FILE={}", quoted(&key_file));
    btcpay.gives(btcpay::OWNERS_KEY, &["unrestricted"]);
    println!(
        "# Now try: reconcile --dry-run\n\
         # This marks Dave's invoice settled, as its page in BTCPay would; then: reconcile --recheck\n\
         accept() {{ curl -fsS -o /dev/null -H 'Authorization: token {}' --json '{{\"status\":\"Settled\"}}' \\\n\
         \x20 {}/api/v1/stores/{}/invoices/btcpay-inv-4/status; }}",
        btcpay::OWNERS_KEY,
        btcpay.url(),
        btcpay::STORE
    );
    println!("# Open until this is ended with Ctrl-C.");
    loop {
        thread::park();
    }
}

/// A path as one word of a shell's command line.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// Builds the program, because Cargo does not do so for an example.
fn build_program() -> Result<PathBuf> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    cargo.args(["build", "--quiet", "--bin", "reconcile"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    if !cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?
        .success()
    {
        return Err("the program could not be built".into());
    }
    let this = env::current_exe()?;
    let profile = this.parent().and_then(Path::parent);
    Ok(profile
        .ok_or("where is this example?")?
        .join(format!("reconcile{}", env::consts::EXE_SUFFIX)))
}

fn run(program: &Path, options: &[&str], database: &Path, btcpay: &Btcpay) -> Result<()> {
    println!("$ {}", [&["reconcile"], options].concat().join(" "));
    let status = reconcile(program, database, btcpay)
        .args(options)
        .status()?;
    println!();
    if !status.success() {
        return Err(format!("reconcile ended with {status}").into());
    }
    Ok(())
}

/// In a terminal, a run that finds nothing says so; cron gives it none.
fn run_from_cron(program: &Path, database: &Path, btcpay: &Btcpay) -> Result<()> {
    println!("$ reconcile");
    let output = reconcile(program, database, btcpay).output()?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(format!("reconcile ended with {}", output.status).into());
    }
    Ok(())
}

fn reconcile(program: &Path, database: &Path, btcpay: &Btcpay) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("RECONCILE_DATABASE", database)
        .env("BTCPAY_URL", btcpay.url())
        .env("BTCPAY_STORE_ID", btcpay::STORE)
        .env("BTCPAY_API_KEY", btcpay::KEY);
    command
}

/// Prints the shop's sales in columns.
fn show(shop: &Connection) -> Result<()> {
    let mut statement = shop.prepare(SHOWN)?;
    let header: Vec<String> = statement.column_names().map(String::from).collect();
    let columns = header.len();
    let rows = statement.query_map([], |row| {
        (0..columns).map(|column| row.get(column)).collect()
    })?;
    let mut lines = vec![header];
    for row in rows {
        lines.push(row?);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
    for line in &lines {
        let cells = line.iter().enumerate();
        let text: Vec<String> = cells
            .map(|(column, cell)| format!("{cell:<0$}", width(column).unwrap_or(0)))
            .collect();
        println!("  {}", text.join("  ").trim_end());
    }
    let used: i64 = shop.query_row("SELECT used_count FROM discount_codes", [], |row| {
        row.get(0)
    })?;
    println!("\n  slots of LAUNCH in use: {used}\n");
    Ok(())
}
