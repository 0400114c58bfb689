//! What README.md, docs/ and crontab.example say: commands do what is said, as they are written but for
//! paths, names and the user; what they show is what is printed; links lead somewhere.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::btcpay;
use crate::demo_shop;
use crate::program::{Ran, Run, line_matches};
use crate::shop::Shop;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// README.md and the pages of docs/.
fn pages() -> Vec<(String, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let names = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()));
    let mut names: Vec<String> = names.collect();
    names.push("README.md".into());
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let text = read(&name);
            (name, text)
        })
        .collect()
}

/// The commands of a page's indented code, those of several lines joined: lines that end in a backslash,
/// functions and loops.
fn code(page: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    let mut is_block = false;
    let mut is_code = false;
    let mut before = "";
    for line in page.lines() {
        let is_indented = line.starts_with("    ");
        is_code = is_indented && (is_code || before.is_empty());
        before = line;
        if !is_code {
            continue;
        }
        let text = line.trim();
        match commands.last_mut() {
            Some(last) if goes_on => {
                last.pop();
                last.push_str(text);
            }
            Some(last) if is_block => {
                last.push('\n');
                last.push_str(text);
            }
            _ => commands.push(text.into()),
        }
        goes_on = text.ends_with('\\');
        is_block = (is_block || text.ends_with('{') || text.ends_with("; do"))
            && !matches!(text, "}" | "done");
    }
    commands
}

/// The page's command that has this in it.
#[track_caller]
fn command_with(page: &str, part: &str) -> String {
    let mut found = code(&read(page)).into_iter();
    found.find(|command| command.contains(part)).unwrap()
}

/// A shop on a server that is set up as README says: its crontab, and the shell of root.
struct Server {
    shop: Shop,
    /// What stands for /var/lib/licensing.
    home: PathBuf,
    tools: TempDir,
    crontab: String,
}

impl Server {
    fn new() -> Self {
        let shop = Shop::open();
        shop.private_file("btcpay.key", btcpay::KEY);
        let home = shop.path("");
        Self::with_home(shop, home)
    }

    /// Nothing is there yet but a folder.
    fn empty() -> Self {
        let shop = Shop::open();
        let home = shop.path("home");
        fs::create_dir(&home).unwrap();
        Self::with_home(shop, home)
    }

    fn with_home(shop: Shop, home: PathBuf) -> Self {
        let mut server = Self {
            shop,
            home,
            tools: TempDir::new().unwrap(),
            crontab: String::new(),
        };
        server.crontab = server.here(&read("crontab.example"));
        fs::write(server.path("licensing.crontab"), &server.crontab).unwrap();
        // The only things that a test cannot be: root, an editor, and services on the Internet.
        server.script(
            "runuser",
            "test \"$1 $2 $3\" = '-u licensing --' && shift 3 && exec \"$@\"",
        );
        server.script(
            "crontab",
            &format!(
                "test \"$*\" = '-l -u licensing' && cat '{}'",
                server.path("licensing.crontab").display()
            ),
        );
        server.script(
            "install",
            "for word; do shift; case $word in -o | licensing) ;; *) set -- \"$@\" \"$word\" ;; esac; done
             command -p install \"$@\"",
        );
        server.script("editor", &format!("printf %s {} > \"$1\"", btcpay::KEY));
        let mail = server.path("mail");
        server.script("sendmail", &format!("cat > '{}'", mail.display()));
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tools.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    /// Where this server's programs are.
    fn programs(&self) -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_reconcile")).parent().unwrap();
        let system = std::env::var("PATH").unwrap();
        let tools = self.tools.path().display();
        format!("{tools}:{}:{system}", program.display())
    }

    /// A page's text with this server's paths and names in the place of the page's.
    fn here(&self, text: &str) -> String {
        let tools = self.tools.path().to_str().unwrap();
        text.replace("/var/lib/licensing/", &format!("{}/", self.home.display()))
            .replace("/usr/share/doc/reconcile", root().to_str().unwrap())
            .replace("/etc/", &format!("{tools}/etc/"))
            .replace("/usr/sbin", tools)
            .replace("PATH=/usr/local/bin", &format!("PATH={}", self.programs()))
            .replace("https://btcpay.example.com", &self.shop.btcpay.url())
            .replace("THE-STORE-ID", btcpay::STORE)
            .replace("the-id-from-settings-general", btcpay::STORE)
            .replace("INVOICE", "a")
            .replace("keysat.db", self.path("keysat.db").to_str().unwrap())
    }

    /// Root types it into a shell that knows nothing of the crontab but by README's function.
    #[track_caller]
    fn types(&self, line: &str) -> Ran {
        let function = command_with("README.md", "reconcile() {");
        self.types_into("sh", &function, line)
    }

    #[track_caller]
    fn types_into(&self, shell: &str, function: &str, line: &str) -> Ran {
        let mut command = Command::new(shell);
        command
            .args(["-c", &self.here(&format!("{function}\n{line}"))])
            .current_dir(root())
            .stdin(Stdio::null())
            .env_clear()
            .env("PATH", self.programs());
        Ran::of(command, 0)
    }

    /// Runs a line of the crontab as cron does, with `settings` added at its top. What it would mail is
    /// on stderr.
    #[track_caller]
    fn cron_runs(&self, line: &str, settings: &[(&str, &str)]) -> Ran {
        let line = self.here(of_crontab(line).unwrap());
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{{ {line}\n}} >&2; true")])
            .stdin(Stdio::null())
            .env_clear();
        for setting in self.crontab.lines() {
            let setting = setting.split_once('=');
            if let Some((name, value)) = setting.filter(|(name, _)| is_setting(name)) {
                command.env(name, value);
            }
        }
        command.envs(
            settings
                .iter()
                .map(|(name, value)| (name, self.here(value))),
        );
        Ran::of(command, 0).prints("")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.join("reconcile.log")).unwrap()
    }
}

fn is_setting(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// The crontab's lines: the minute's, the hour's and the day's.
fn crontab_lines() -> Vec<String> {
    let crontab = read("crontab.example");
    let lines = crontab.lines().filter(|line| of_crontab(line).is_some());
    lines.map(Into::into).collect()
}

/// A line of a crontab without when it runs; None if it is no such line.
fn of_crontab(line: &str) -> Option<&str> {
    let rest = line.splitn(6, ' ').nth(5)?;
    let mut times = line.split(' ').take(5);
    times
        .all(|time| time == "*" || time.parse::<u8>().is_ok())
        .then_some(rest)
}

#[test]
fn readme_is_short() {
    let words = read("README.md").split_whitespace().count();
    assert!(words <= 1_300, "{words} words");
}

#[test]
fn readme_shows_the_demo_as_it_prints() {
    let folder = TempDir::new().unwrap();
    let (database, _) = demo_shop::open_shop(folder.path()).unwrap();
    let server = demo_shop::server();
    let ran = Run::bare()
        .flag("--dry-run")
        .env("RECONCILE_DATABASE", database.to_str().unwrap())
        .env("BTCPAY_URL", &server.url())
        .env("BTCPAY_STORE_ID", btcpay::STORE)
        .env("BTCPAY_API_KEY", btcpay::KEY)
        .exits(0)
        .warns("");
    let readme = read("README.md");
    let (_, shown) = readme.split_once("$ reconcile --dry-run\n").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    let shown: Vec<&str> = shown.lines().collect();
    let printed: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(shown.len(), printed.len(), "{}", ran.stdout);
    for (shown, printed) in shown.iter().zip(printed) {
        // Ports, times and milliseconds differ.
        let pattern = match (shown.find("127.0.0.1:"), shown.find("Z dry run")) {
            (Some(place), _) => {
                let port = &shown[place..];
                format!(
                    "{}127.0.0.1:[..]{}",
                    &shown[..place],
                    &port[port.find('/').unwrap()..]
                )
            }
            (_, Some(place)) => {
                let end = shown.rfind(", ").unwrap();
                format!("20[..]{}, [..] ms", &shown[place..end])
            }
            (None, None) => (*shown).to_owned(),
        };
        assert!(line_matches(&pattern, printed), "{pattern}\n{printed}");
    }
}

#[test]
fn set_up_by_the_letter_leads_to_runs_and_mails() {
    let server = Server::empty();
    let readme = read("README.md");
    let (_, set_up) = readme.split_once("## Set it up").unwrap();
    let (set_up, _) = set_up.split_once("\n## ").unwrap();
    let commands = code(&set_up.replace("       ", "    "));
    let [database, file, key, look, log, mail] = &commands[..] else {
        panic!("{commands:?}");
    };
    let function = "";
    for command in [database, file, key] {
        server.types_into("sh", function, command).says_nothing();
    }
    let private = ["licenses.db", "btcpay.key"].map(|name| server.home.join(name));
    for file in private {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    server.types_into("sh", function, look).warns("");
    let for_real = look.replace("--dry-run", "");
    server.types_into("sh", function, &for_real).warns("");

    server.cron_runs(&crontab_lines()[0], &[]).says_nothing();
    let shown = server.types_into("sh", function, log).warns("").stdout;
    assert!(shown.starts_with("-rw-------"), "{shown}");
    assert_eq!(server.log(), "");
    server.types_into("sh", function, mail).says_nothing();
    let mail = fs::read_to_string(server.path("mail")).unwrap();
    assert_eq!(mail, "Subject: test\n");
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[test]
fn every_command_does_what_is_said() {
    let server = Server::new();
    server
        .shop
        .sale("a")
        .here("expired")
        .there("Expired")
        .made();
    let keysat = rusqlite::Connection::open(server.path("keysat.db")).unwrap();
    keysat.execute_batch(include_str!("keysat.sql")).unwrap();
    keysat
        .execute_batch("CREATE TABLE IF NOT EXISTS btcpay_config (base_url TEXT, store_id TEXT)")
        .unwrap();
    let mut typed = 0;
    for (_, text) in pages() {
        for line in code(&text) {
            if !(line.starts_with("reconcile -") || line.starts_with("sqlite3 ")) {
                continue;
            }
            if line.contains("--issue") {
                server.shop.sale("a2").here("settled").made();
                server.types(&line.replace("INVOICE", "a2"));
            } else {
                server.types(&line);
            }
            typed += 1;
        }
    }
    assert!(typed >= 8, "{typed}");
}

#[test]
fn commands_of_mails_work_as_they_are_in_roots_shell() {
    let server = Server::new();
    server.shop.sale("a").there("New").made();
    // What a crontab may have besides.
    let crontab = server
        .crontab
        .replace("you@example.com", "you@example.com, me@example.com");
    let besides = "# A comment=with this\n\n5 4 * * * A=1 B=2 true\n@daily C=3 true\n";
    fs::write(
        server.path("licensing.crontab"),
        besides.to_owned() + &crontab,
    )
    .unwrap();
    // The same settings for systemd.
    let folder = server.path("etc/reconcile");
    fs::create_dir_all(&folder).unwrap();
    let settings = server.here(&read("packaging/systemd/example.env"));
    fs::write(folder.join("shop.env"), settings).unwrap();
    fs::write(folder.join("shop.key"), btcpay::KEY).unwrap();
    for page in ["README.md", "docs/systemd.md"] {
        let function = command_with(page, "reconcile() {");
        for shell in ["sh", "bash"] {
            let shown = server
                .types_into(shell, &function, "reconcile -n a")
                .warns("");
            let shown = shown.stdout;
            assert!(shown.starts_with("invoice a "), "{page} {shell}: {shown}");
        }
    }
}

#[test]
fn units_are_installed_where_systemd_looks() {
    let server = Server::new();
    let page = read("docs/systemd.md");
    let commands = code(&page);
    let (install, _) = commands.split_at(4);
    for command in install {
        let command = format!("cd packaging/systemd; {command}");
        fs::create_dir_all(server.path("etc/systemd/system")).unwrap();
        server.types_into("sh", "", &command).says_nothing();
    }
    let installed = |name: &str| mode(&server.path("etc").join(name));
    assert_eq!(installed("reconcile/shop.env"), 0o644);
    assert_eq!(installed("reconcile/shop.key"), 0o600);
    for unit in ["reconcile", "reconcile-hour", "reconcile-day"] {
        for file in ["@.service", "@.timer", "@shop.service.d/user.conf"] {
            assert_eq!(installed(&format!("systemd/system/{unit}{file}")), 0o644);
        }
    }
}

#[test]
fn sale_that_was_refunded_is_over_without_a_new_license() {
    let server = Server::new();
    let shop = &server.shop;
    let page = read("docs/attention.md");
    let (_, section) = page.split_once("## After a refund").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let [revoke, acknowledge, close] = &code(section)[..] else {
        panic!("{section}");
    };
    shop.sale("licensed").here("settled").licensed().made();
    shop.sale("open").redemption("pending").made();
    for (command, id) in [(revoke, "licensed"), (acknowledge, "open"), (close, "open")] {
        server.types(&command.replace("INVOICE", id)).warns("");
    }
    for line in crontab_lines() {
        server.cron_runs(&line, &[]).says_nothing();
    }
    assert_eq!(
        shop.query("SELECT id, status FROM licenses"),
        "lic-licensed|revoked"
    );
    assert_eq!(shop.state("open"), "expired, cancelled, used 0");
}

#[test]
fn crontab_example_keeps_the_shop_and_mails_what_needs_a_person() {
    let server = Server::new();
    let shop = &server.shop;
    shop.sale("paid").made();
    shop.sale("late")
        .there("Expired")
        .additional("PaidLate", "0.00021")
        .made();
    let [minute, hour, day] = &crontab_lines()[..] else {
        panic!("not three lines");
    };
    server.cron_runs(minute, &[]).says_nothing();
    assert_eq!(shop.state("paid"), "settled, licensed");
    assert_eq!(mode(&server.home.join("reconcile.log")), 0o600);
    server.cron_runs(hour, &[]).tells(&[("late", "paid_late")]);
    server.cron_runs(day, &[]).says_nothing();

    shop.sale("last")
        .there("Expired")
        .additional("PaidLate", "0.00021")
        .made();
    server.cron_runs(day, &[]).tells(&[("last", "paid_late")]);
    // Both were told by mail, and the first by the minute's run as well.
    assert_eq!(server.log().matches(" old: paid late\n").count(), 3);

    shop.btcpay.revoke(btcpay::KEY);
    for line in [hour, day] {
        let error = "error: BTCPay Server refused the API key";
        let mailed = server.cron_runs(line, &[]).stderr;
        assert!(mailed.starts_with(error), "{mailed}");
        let log = server.log();
        assert!(log.contains(&mailed), "{log}");
    }
}

#[test]
fn crontab_example_names_settings_that_exist() {
    let help = Run::bare().flag("--help").exits(0).stdout;
    for line in read("crontab.example").lines() {
        let setting = line.trim_start_matches('#').split_once('=');
        let Some((name, _)) = setting.filter(|(name, _)| is_setting(name)) else {
            continue;
        };
        let is_crons = matches!(name, "MAILTO" | "PATH" | "LOG" | "LOCK");
        assert!(is_crons || help.contains(name), "{name}");
    }
}

/// A server whose curl keeps what it is given, where it would post it: options, and what is in files.
fn posting_server() -> (Server, PathBuf) {
    let server = Server::new();
    let posted = server.path("posted");
    server.can_post();
    (server, posted)
}

impl Server {
    fn can_post(&self) {
        self.script(
            "curl",
            &format!(
                "for word; do case $word in @*) cat \"${{word#@}}\" ;; *) echo \"$word\" ;; esac; done >> '{}'",
                self.path("posted").display()
            ),
        );
    }

    fn cannot_post(&self) {
        self.script("curl", "echo 'curl: (7) cannot connect' >&2; exit 7");
    }
}

#[test]
fn what_needs_a_person_can_be_posted_in_the_place_of_a_mail() {
    let commands = code(&read("docs/cron.md"));
    let lines: Vec<&String> = commands
        .iter()
        .filter(|line| line.contains("$NTFY"))
        .collect();
    let instead = &crontab_lines()[1..];
    assert_eq!(lines.len(), instead.len());
    let settings = [
        ("NTFY", "https://ntfy.example.com/shop"),
        ("UNSENT", "/var/lib/licensing/reconcile.unsent"),
    ];
    for (line, instead) in lines.into_iter().zip(instead) {
        // It does what the line does that it replaces.
        let when = |line: &str| line.split(' ').take(5).collect::<Vec<_>>().join(" ");
        assert_eq!(when(line), when(instead));
        let (_, run) = instead.split_once("reconcile ").unwrap();
        let (options, _) = run.split_once(" 2>").unwrap();
        assert!(line.contains(&format!("reconcile {options} 2>")), "{line}");

        let (server, posted) = posting_server();
        let unsent = server.home.join("reconcile.unsent");
        server.cron_runs(line, &settings).says_nothing();
        assert!(!posted.exists(), "nothing to say, nothing posted");

        server.cannot_post();
        let sale = server.shop.sale("late").there("Expired");
        sale.additional("PaidLate", "0.00021").made();
        server.cron_runs(line, &settings).says_nothing();
        assert_eq!(mode(&unsent), 0o600);
        let kept = fs::read_to_string(&unsent).unwrap();
        assert!(kept.contains("late@example.com, Pro\n"), "{kept}");
        let log = server.log();
        assert!(log.ends_with("curl: (7) cannot connect\n"), "{log}");

        // What cannot be kept is not told.
        server.shop.sale("more").additional("None", "0.0002").made();
        let nowhere = "/var/lib/licensing/no-folder/reconcile.unsent";
        server
            .cron_runs(line, &[settings[0], ("UNSENT", nowhere)])
            .says_nothing();
        assert!(server.log().contains("cannot create"), "{}", server.log());

        // It goes with the next, which has an error to tell besides; and then no more.
        server.can_post();
        server.shop.btcpay.revoke(btcpay::KEY);
        server.shop.sale("a").made();
        server.cron_runs(line, &settings).says_nothing();
        server
            .shop
            .btcpay
            .gives(btcpay::KEY, &["btcpay.store.canviewinvoices"]);
        server.cron_runs(line, &settings).says_nothing();
        let posted = fs::read_to_string(posted).unwrap();
        for text in [
            "late@example.com, Pro\n",
            "more@example.com, Pro\n",
            "\nerror: BTCPay Server refused the API key",
        ] {
            assert_eq!(posted.matches(text).count(), 1, "{posted}");
        }
        assert!(
            posted.contains("\nhttps://ntfy.example.com/shop\n"),
            "{posted}"
        );
        assert_eq!(fs::read_to_string(unsent).unwrap(), "");
        let log = server.log();
        assert_eq!(log.matches("late@example.com, Pro\n").count(), 1, "{log}");
    }
}

#[test]
fn sign_of_life_carries_the_exit_code_and_mails_nothing() {
    let (server, posted) = posting_server();
    let line = command_with("docs/cron.md", "$ALIVE");
    let settings = [("ALIVE", "https://alive.example.com/x")];
    server.cron_runs(&line, &settings).says_nothing();
    server.shop.btcpay.revoke(btcpay::KEY);
    server.shop.sale("a").made();
    server.cron_runs(&line, &settings).says_nothing();
    let posted = fs::read_to_string(posted).unwrap();
    let pinged: Vec<&str> = posted
        .lines()
        .filter(|line| line.contains("alive"))
        .collect();
    assert_eq!(
        pinged,
        [
            "https://alive.example.com/x/0",
            "https://alive.example.com/x/1"
        ]
    );
    // The monitor is down.
    server.cannot_post();
    server.cron_runs(&line, &settings).says_nothing();
}

#[test]
fn cargo_commands_name_what_exists() {
    let manifest = read("Cargo.toml");
    let suite = read("tests/suite/main.rs");
    for (page, text) in pages() {
        for line in code(&text) {
            let Some((_, cargo)) = line.split_once("cargo ") else {
                continue;
            };
            let words: Vec<&str> = cargo.split_whitespace().collect();
            let after = |flag: &str| {
                let place = words.iter().position(|word| *word == flag)?;
                words.get(place + 1)
            };
            for flag in ["--example", "--test", "--bench"] {
                if let Some(name) = after(flag) {
                    assert!(
                        manifest.contains(&format!("name = \"{name}\"")),
                        "{page}: {name}"
                    );
                }
            }
            if after("--test") == Some(&"suite") {
                for filter in words.iter().skip_while(|word| **word != "--").skip(1) {
                    let is_module = suite.contains(&format!("mod {filter};"));
                    let is_test = suite_has_a_test_named(filter);
                    assert!(is_module || is_test, "{page}: {filter}");
                }
            }
        }
    }
}

fn suite_has_a_test_named(part: &str) -> bool {
    let files = fs::read_dir(root().join("tests/suite")).unwrap();
    let mut texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    texts.any(|text| {
        text.lines()
            .any(|line| line.starts_with("fn ") && line.contains(part))
    })
}

#[test]
fn messages_that_are_explained_are_those_of_the_program() {
    let sources = ["src", "src/btcpay", "src/database"].map(|folder| {
        let files = fs::read_dir(root().join(folder)).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let texts = files
            .filter(|path| path.is_file())
            .map(|path| fs::read_to_string(path).unwrap());
        texts.collect::<String>()
    });
    // As one line, with what a message fills in.
    let sources = sources.concat().replace("\\\n", " ");
    let sources = sources.split_whitespace().collect::<Vec<_>>().join(" ");
    let sources = sources.replace("{VIEW_INVOICES}", "btcpay.store.canviewinvoices");
    let page = read("docs/when-something-is-wrong.md");
    let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
    let messages: Vec<&str> = headings
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect();
    assert!(messages.len() >= 10, "{messages:?}");
    for message in messages {
        assert!(sources.contains(message), "{message}");
    }
}

#[test]
fn links_lead_somewhere() {
    for (page, text) in pages() {
        for (_, rest) in text
            .match_indices("](")
            .map(|(place, _)| text.split_at(place + 2))
        {
            let (target, _) = rest.split_once(')').unwrap();
            if target.starts_with("http") {
                continue;
            }
            let (file, _) = target.split_once('#').unwrap_or((target, ""));
            let folder = root().join(&page);
            let path = folder.parent().unwrap().join(file);
            assert!(path.exists(), "{page}: {target}");
        }
    }
}

#[test]
fn every_option_and_reason_is_in_the_docs() {
    let help = Run::bare().flag("--help").exits(0).stdout;
    let options = read("docs/options-and-exit-codes.md");
    for word in help
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
    {
        let option = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let known = matches!(option, "--help" | "--version") || options.contains(option);
        assert!(known, "{option}");
    }
    let decide = read("src/decide.rs");
    let (_, reasons) = decide.split_once("pub const fn reason(").unwrap();
    let (reasons, _) = reasons.split_once("\n    }\n").unwrap();
    let attention = read("docs/attention.md");
    for reason in reasons.split('"').skip(1).step_by(2) {
        assert!(attention.contains(&format!("`{reason}`")), "{reason}");
    }
}
