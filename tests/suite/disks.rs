//! Disk errors and missing permissions: a clear message, exit code 1, and an unchanged database.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::program::{Ran, Run};
use crate::shop::{STOPPED, Shop};

pub const NOBODY: u32 = 65_534;

/// Runs as an unprivileged user, because permissions do not stop root.
pub fn as_nobody(shop: &Shop, run: Run, code: i32) -> Ran {
    let root =
        fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if !root {
        return run.exits(code);
    }
    // The program may be in a directory that only its owner can enter, so it is copied. `cp` copies
    // it, not this process: a child that another test starts meanwhile would inherit the open copy,
    // and a file that is open for writing cannot be executed.
    let program = shop.path("reconcile");
    let mut copy = Command::new("cp");
    copy.arg(env!("CARGO_BIN_EXE_reconcile")).arg(&program);
    Ran::of(copy, 0);
    for file in [shop.path(""), shop.database(), program.clone()] {
        chown(file, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut as_nobody = run.beside(program);
    as_nobody
        .args(run.command().get_args())
        .uid(NOBODY)
        .gid(NOBODY);
    Ran::of(as_nobody, code)
}

fn set_mode(file: impl AsRef<std::path::Path>, mode: u32) {
    fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn missing_file_permission_is_reported_before_any_request() {
    for (file, folder, expected) in [
        (0o444, 0o755, ". Give this user write permission"),
        (0o000, 0o755, "This user may not open the file"),
    ] {
        let shop = Shop::open();
        shop.sale("a").made();
        let before = shop.everything();
        set_mode(shop.database(), file);
        set_mode(shop.path(""), folder);
        as_nobody(&shop, shop.reconcile(), 1)
            .prints("")
            .warns(&format!("error: [..]licenses.db[..]{expected}[..]"));
        assert_eq!(shop.btcpay.requests(), [""; 0]);
        set_mode(shop.database(), 0o644);
        assert_eq!(shop.everything(), before);
    }
}

#[test]
fn read_only_folder_leaves_database_unchanged() {
    let shop = Shop::open();
    shop.sale("a").made();
    let before = shop.everything();
    set_mode(shop.path(""), 0o555);
    as_nobody(&shop, shop.reconcile(), 1).prints(STOPPED).warns(
        "error: cannot write to the database [..]. Give this user write permission for the file and its folder, [..]",
    );
    as_nobody(&shop, shop.reconcile().flag("-n"), 0);
    set_mode(shop.path(""), 0o755);
    assert_eq!(shop.everything(), before);
    shop.reconcile().exits(0);
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn full_disk_leaves_database_unchanged() {
    let shop = Shop::open();
    shop.many_sales(600, |_| "Settled");
    let before = shop.everything();
    let size = fs::metadata(shop.database()).unwrap().len();
    // No file may outgrow the database's present size, give or take a 512-byte block.
    let run = shop.reconcile();
    let mut limited = run.beside("sh");
    let command = run.command();
    limited
        .arg("-c")
        .arg(format!(
            "trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"",
            size / 512
        ))
        .arg(command.get_program())
        .args(command.get_args());
    Ran::of(limited, 1)
        .prints(STOPPED)
        .warns("error: cannot write to the database [..]: [..]disk [..]");
    assert_eq!(shop.everything(), before);
    assert_eq!(shop.query("PRAGMA integrity_check"), "ok");
    shop.reconcile().exits(0);
    assert_eq!(shop.statuses(), "600 settled");
}

#[test]
fn real_run_rolls_back_a_crashed_write() {
    let shop = Shop::open();
    shop.many_sales(200, |_| "Settled");
    let service = shop.connection();
    // Writes to the file before the commit. The journal keeps the original pages.
    service
        .execute_batch(
            "PRAGMA cache_size = 2;
             BEGIN IMMEDIATE;
             UPDATE invoices SET status = 'invalid', buyer_note = hex(randomblob(100))",
        )
        .unwrap();
    let [crashed, journal] = ["dead.db", "dead.db-journal"].map(|name| shop.path(name));
    fs::copy(shop.database(), &crashed).unwrap();
    fs::copy(shop.path("licenses.db-journal"), journal).unwrap();
    let run = || {
        shop.reconcile()
            .option("--database", crashed.to_str().unwrap())
    };
    run()
        .flag("-n")
        .exits(1)
        .warns("error: cannot read the database [..]. A program died while writing. [..]");
    run().exits(0).warns("");
    let settled: i64 = rusqlite::Connection::open(&crashed)
        .unwrap()
        .query_row(
            "SELECT count(*) FROM invoices WHERE status = 'settled'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(settled, 200);
}

#[test]
fn damaged_file_is_reported_and_left_unchanged() {
    let damages: [fn(&mut Vec<u8>); 3] = [
        |file| file.truncate(file.len() / 2),
        |file| file.truncate(5_000),
        |file| file[4_096..].fill(0xa5),
    ];
    for damage in damages {
        let shop = Shop::open();
        shop.many_sales(200, |_| "Settled");
        let mut file = fs::read(shop.database()).unwrap();
        damage(&mut file);
        fs::write(shop.database(), &file).unwrap();
        for flag in ["-q", "-n"] {
            shop.reconcile()
                .flag(flag)
                .exits(1)
                .prints("")
                .warns("error: cannot [..] the database [..]. The file is damaged. [..]");
        }
        assert!(fs::read(shop.database()).unwrap() == file);
        assert_eq!(shop.btcpay.requests(), [""; 0]);
    }
}
