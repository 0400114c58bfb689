//! A person who reads what the program tells on stderr, and does what it says.

use crate::shop::Shop;

/// A block of what was told: who bought what, price and reason, what is wrong, steps, links, the id.
#[derive(Debug)]
pub struct Block<'a> {
    lines: Vec<&'a str>,
}

/// What a person does about one line of a block.
#[derive(Clone, Copy)]
pub enum Act {
    /// Marks the invoice in BTCPay, which must allow it.
    Mark(&'static str),
    /// Runs the statement, or types the command, that the next line holds.
    Copy,
    /// The same with the id of a license for its placeholder.
    CopyFor(&'static str),
    /// Revokes the license that the line names.
    Revoke,
    /// Works in the service, or lets it work.
    Serve(fn(&Shop)),
    /// Nothing that the program could see.
    Nothing,
}

impl<'a> Block<'a> {
    /// All blocks that this text holds.
    pub fn of(stderr: &'a str) -> Vec<Self> {
        let blocks = stderr.trim_end().split("\n\n");
        let blocks = blocks.filter(|block| !block.is_empty());
        blocks
            .map(|block| Self {
                lines: block.lines().collect(),
            })
            .collect()
    }

    #[track_caller]
    pub fn invoice(&self) -> &'a str {
        let last = self.lines.last().unwrap();
        last.strip_prefix("invoice ").unwrap()
    }

    /// The reason, with underscores.
    #[track_caller]
    pub fn reason(&self) -> String {
        let (_, reason) = self.lines[1].split_once(": ").unwrap();
        reason.replace(' ', "_")
    }

    /// The lines that say what to do, without the commands.
    pub fn steps(&self) -> impl Iterator<Item = &'a str> {
        let steps = self.lines[3..].iter().copied();
        steps
            .take_while(|line| !line.starts_with("http") && !line.starts_with("invoice "))
            .filter(|line| !line.starts_with("  "))
    }

    /// Does what the line that begins like this says, about the invoice `btc-a`.
    #[track_caller]
    pub fn follow(&self, shop: &Shop, begins: &str, act: Act) {
        let is_it = |line: &&str| line.starts_with(begins);
        let place = self.lines.iter().position(is_it);
        let place = place.unwrap_or_else(|| panic!("no line begins with '{begins}': {self:?}"));
        let line = self.lines[place];
        let copied = || {
            assert!(line.ends_with(':'), "{line}");
            self.lines[place + 1].strip_prefix("  ").unwrap()
        };
        match act {
            Act::Mark(status) => {
                let word = format!("mark the invoice {} in BTCPay", status.to_lowercase());
                assert!(line.contains(&word), "{line}");
                let id = shop.query(&format!(
                    "SELECT btcpay_invoice_id FROM invoices WHERE id = '{}'",
                    self.invoice().replace('\'', "''")
                ));
                shop.btcpay.mark(&id, status);
            }
            Act::Copy => run(shop, copied()),
            Act::CopyFor(license) => run(shop, &copied().replace("ITS-ID", license)),
            Act::Revoke => {
                let (_, rest) = line.split_once("evoke license ").unwrap();
                let id = rest.split([' ', '.', ',', ':']).next().unwrap();
                shop.sql(&format!(
                    "UPDATE licenses SET status = 'revoked' WHERE id = '{id}'"
                ));
                assert_eq!(
                    shop.query(&format!("SELECT status FROM licenses WHERE id = '{id}'")),
                    "revoked",
                    "{line}"
                );
            }
            Act::Serve(work) => work(shop),
            Act::Nothing => {}
        }
    }
}

/// Statements end with a semicolon, commands do not.
fn run(shop: &Shop, copied: &str) {
    if copied.ends_with(';') {
        shop.sql(copied);
    } else {
        assert!(copied.starts_with("reconcile "), "{copied}");
        shop.person_types(copied);
    }
}
