//! Measures the speed of `reconcile`: `cargo bench` prints a table of one run on this machine.
//!
//! The built program works on real databases and with a BTCPay Server on loopback that answers each
//! request after 20 ms.

mod shop;
mod store;

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::IgnoredAny;
use wait4::Wait4;

use shop::Shop;
use store::{LATENCY_MS, STORE, Server, Store};

const MEASURE: &str = "measure";
const PROGRAM: &str = env!("CARGO_BIN_EXE_reconcile");
/// As in src/lookup/plan.rs.
const PAGE_SIZE: usize = 500;
const MIB: f64 = 1024.0 * 1024.0;

fn main() {
    if let Some(store) = store::asked_to_serve() {
        return store.serve();
    }
    if env::args().nth(1).as_deref() == Some(MEASURE) {
        return measure(env::args_os().skip(2));
    }
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} cores, {LATENCY_MS} ms a request\n");
    println!("| what | measured | to reach |\n| --- | --- | --- |");
    backlog();
    growth();
    cells();
    quiet();
    long_log();
    let size = mib(shop::size(Path::new(PROGRAM)));
    row("release binary", &format!("{size:.2} MiB"), "under 8 MiB");
}

fn row(what: &str, measured: &str, to_reach: &str) {
    println!("| {what} | {measured} | {to_reach} |");
}

/// One run of the program.
struct Run {
    time: Duration,
    peak_bytes: u64,
    stdout: Vec<u8>,
}

#[derive(Deserialize)]
struct Report {
    checked: usize,
    requests: usize,
    changes: Vec<IgnoredAny>,
}

fn reconcile(shop: &Shop, url: &str, format: &str) -> Run {
    let program = program(shop, url);
    let started = Instant::now();
    let output = Command::new(env::current_exe().unwrap())
        .arg(MEASURE)
        .arg(program.get_program())
        .args(program.get_args())
        .args(["--format", format, "--deadline", "0", "--quiet"])
        .output()
        .unwrap();
    Run {
        time: started.elapsed(),
        peak_bytes: String::from_utf8(output.stderr)
            .unwrap()
            .trim_end()
            .parse()
            .unwrap(),
        stdout: output.stdout,
    }
}

impl Run {
    fn report(&self) -> Report {
        serde_json::from_slice(&self.stdout).unwrap()
    }
}

/// Runs a program and prints its peak memory to stderr. This needs a separate process, because the
/// system also counts the memory that the parent had when it started the program.
fn measure(mut command: impl Iterator<Item = OsString>) {
    let child = Command::new(command.next().unwrap())
        .args(command)
        .spawn()
        .unwrap();
    eprintln!("{}", child.wait4().unwrap().rusage.maxrss);
}

fn program(shop: &Shop, url: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["--store-id", STORE, "--btcpay-url", url, "--database"])
        .arg(shop.database())
        .arg("--api-key-file")
        .arg(shop.key_file());
    command
}

fn backlog() {
    const MANY: usize = 10_000;
    const FEW: usize = 500;
    let one_by_one = reconcile(
        &Shop::with_pending(FEW),
        &Store::without_list(FEW).start().url,
        "json",
    );
    assert!(one_by_one.report().requests <= FEW + 3);
    let scaled = one_by_one.time * u32::try_from(MANY / FEW).unwrap();

    let shop = Shop::with_pending(MANY);
    let writing = shop.time_to_write(PAGE_SIZE);
    let (pages, parsing) = parse(Store::of_candidates(MANY));
    let asking = Duration::from_millis((LATENCY_MS * pages).try_into().unwrap());
    let floor = asking + writing + parsing;
    let server = Store::of_candidates(MANY).start();
    let run = reconcile(&shop, &server.url, "json");
    assert_eq!(run.report().changes.len(), MANY * 9 / 10);
    row("10,000 candidates", &asked(&run, &server), "");
    row(
        "the same, one by one (500 measured, scaled)",
        &format!(
            "{:.0} s, {:.0} times as long; server cost {MANY}",
            scaled.as_secs_f64(),
            ratio(scaled, run.time)
        ),
        "100 times",
    );
    row(
        &format!(
            "against the floor: {pages} requests, writing {:.2} s, parsing {:.2} s",
            writing.as_secs_f64(),
            parsing.as_secs_f64()
        ),
        &format!("{:.2} times", ratio(run.time, floor)),
        "1.3 times",
    );
}

/// The number of pages of the store, and the time it takes to parse them.
fn parse(store: Store) -> (usize, Duration) {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[expect(dead_code, reason = "parsed and dropped")]
    struct Invoice<'a> {
        id: &'a str,
        store_id: &'a str,
        status: &'a str,
        additional_status: &'a str,
        currency: &'a str,
        amount: &'a str,
        paid_amount: &'a str,
    }
    let pages = store.answers().pages(PAGE_SIZE);
    let started = Instant::now();
    for page in &pages {
        serde_json::from_str::<Vec<Invoice>>(page).unwrap();
    }
    (pages.len(), started.elapsed())
}

fn growth() {
    for count in [1_000, 10_000, 100_000] {
        let shop = Shop::with_pending(count);
        let writing = shop.time_to_write(PAGE_SIZE);
        let run = reconcile(&shop, &Store::of_candidates(count).start().url, "json");
        assert_eq!(run.report().checked, count);
        let shop = Shop::with_pending(count);
        let text = reconcile(&shop, &Store::of_candidates(count).start().url, "text");
        let count_u32 = u32::try_from(count).unwrap();
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(count_u32);
        row(
            &format!("{count} candidates"),
            &format!(
                "{:.2} s: {:.0} µs an invoice, of which SQLite alone needs {:.0} to write; {:.1} MiB at most, \
                 {:.1} MiB with JSON",
                run.time.as_secs_f64(),
                micros(run.time),
                micros(writing),
                mib(text.peak_bytes),
                mib(run.peak_bytes)
            ),
            "no more an invoice; under 24 MiB, 45 MiB with JSON",
        );
    }
}

/// What `run` asked of `server`.
fn asked(run: &Run, server: &Server) -> String {
    format!(
        "{} requests, server cost {:.1}, {:.2} s",
        run.report().requests,
        server.cost(),
        run.time.as_secs_f64()
    )
}

/// Few candidates among 100,000 invoices. What the plan costs in other stores is its own sum: see its
/// tests.
fn cells() {
    const TOR_MS: usize = 500;
    for (candidates, latency, to_reach) in [
        (10, LATENCY_MS, 10),
        (1_000, LATENCY_MS, 22),
        (1_000, TOR_MS, 22),
    ] {
        let server = Store::shared(candidates, 100_000 / candidates - 1)
            .answering_after(latency)
            .start();
        let run = reconcile(&Shop::with_pending(candidates), &server.url, "json");
        row(
            &format!("{candidates} candidates among 100,000 invoices, {latency} ms a request"),
            &asked(&run, &server),
            &format!("{to_reach} requests"),
        );
    }
}

fn quiet() {
    for count in [1_000, 1_000_000] {
        let shop = Shop::at_rest(count);
        let unreachable = "https://127.0.0.1:1";
        let run = reconcile(&shop, unreachable, "json");
        assert_eq!(run.report().checked, 0);
        let ours = shortest(|| assert!(program(&shop, unreachable).status().unwrap().success()));
        let query = candidate_query(&shop);
        let theirs = Command::new("sqlite3")
            .arg("--version")
            .output()
            .is_ok()
            .then(|| {
                shortest(|| {
                    let shell = Command::new("sqlite3")
                        .arg(shop.database())
                        .arg(&query)
                        .output()
                        .unwrap();
                    assert!(shell.status.success() && shell.stdout.is_empty());
                })
            });
        let compared = theirs.map_or("no sqlite3 here to compare with".into(), |theirs| {
            format!("{:.2} times the sqlite3 shell", ratio(ours, theirs))
        });
        row(
            &format!("quiet run among {count} invoices"),
            &format!(
                "{:.1} ms, {compared}, {:.1} MiB at most",
                ours.as_secs_f64() * 1e3,
                mib(run.peak_bytes)
            ),
            "1.5 times; under 12 MiB",
        );
    }
}

/// A `--recheck` reads the log, whatever it finds.
fn long_log() {
    let shop = Shop::with_a_long_log();
    for (index, to_reach) in [
        ("", "as a quiet run"),
        (" without the index of schema.sql", ""),
    ] {
        if !index.is_empty() {
            shop.loses_the_index_of_the_log();
        }
        let time = shortest(|| {
            let mut recheck = program(&shop, "https://127.0.0.1:1");
            assert!(recheck.arg("--recheck").output().unwrap().status.success());
        });
        row(
            &format!("a --recheck that finds nothing, 1,000,000 audit rows{index}"),
            &format!("{:.1} ms", time.as_secs_f64() * 1e3),
            to_reach,
        );
    }
}

/// The program's own query with its values and views, as logged at `-vvv`.
fn candidate_query(shop: &Shop) -> String {
    let log = program(shop, "http://127.0.0.1:1")
        .arg("-vvv")
        .output()
        .unwrap();
    let log = String::from_utf8(log.stderr).unwrap();
    let after = |words| {
        let lines = log.lines().filter_map(move |line| line.strip_prefix(words));
        lines
            .map(|sql| sql.replace("\\n", "\n"))
            .collect::<String>()
    };
    after("trace: view: ") + &after("trace: candidates: ")
}

/// The shortest time of enough runs to exclude noise.
fn shortest(run: impl Fn()) -> Duration {
    let time = || {
        let started = Instant::now();
        run();
        started.elapsed()
    };
    (0..40).map(|_| time()).min().unwrap()
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
