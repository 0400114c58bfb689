//! Runs the built program and checks its output.

use std::ffi::OsStr;
use std::fs::File;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A run of the built program. Its environment contains only the variables set here.
pub struct Run {
    command: Command,
}

impl Run {
    pub fn bare() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reconcile"));
        command.env_clear().stdin(Stdio::null());
        Self { command }
    }

    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.command.arg(name).arg(value);
        self
    }

    pub fn flag(mut self, name: &str) -> Self {
        self.command.arg(name);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn command(self) -> Command {
        self.command
    }

    /// A command for another program with the environment of this run.
    pub fn beside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let set = self.command.get_envs();
        command
            .env_clear()
            .envs(set.filter_map(|(name, value)| Some((name, value?))));
        command
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        Ran::of(self.command, code)
    }

    /// Runs with `--format json` and returns the parsed object.
    #[track_caller]
    pub fn json(self, code: i32) -> Value {
        let ran = self.option("--format", "json").exits(code);
        assert_eq!(ran.stdout.matches('\n').count(), 1, "{}", ran.transcript);
        serde_json::from_str(&ran.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", ran.transcript))
    }
}

/// The output of a finished run.
pub struct Ran {
    pub stdout: String,
    pub stderr: String,
    /// The command, exit status and output, for the message of a failed test.
    transcript: String,
}

impl Ran {
    /// Runs `command` and checks that it exits with `code`.
    #[track_caller]
    pub fn of(mut command: Command, code: i32) -> Self {
        let output = command.output().unwrap();
        let ran = Self::new(&command, &output);
        assert_eq!(output.status.code(), Some(code), "{}", ran.transcript);
        ran
    }

    fn new(command: &Command, output: &Output) -> Self {
        let stdout = String::from_utf8(output.stdout.clone()).unwrap();
        let stderr = String::from_utf8(output.stderr.clone()).unwrap();
        let transcript = format!(
            "{command:?}\n{}\n--- stdout\n{stdout}\n--- stderr\n{stderr}",
            output.status
        );
        Self {
            stdout,
            stderr,
            transcript,
        }
    }

    /// Checks stdout. `[..]` matches any text within a line, as `*` does in a file name.
    #[track_caller]
    pub fn prints(self, expected: &str) -> Self {
        assert!(
            matches(expected, &self.stdout),
            "expected on stdout:\n{expected}\ngot: {}",
            self.transcript
        );
        self
    }

    #[track_caller]
    pub fn warns(self, expected: &str) -> Self {
        assert!(
            matches(expected, &self.stderr),
            "expected on stderr:\n{expected}\ngot: {}",
            self.transcript
        );
        self
    }

    /// Checks that stderr has a block for each of these and nothing else: an invoice and why it needs
    /// a person.
    #[track_caller]
    pub fn tells(self, expected: &[(&str, &str)]) -> Self {
        let told = self.told();
        let told: Vec<_> = told
            .iter()
            .map(|(id, why)| (id.as_str(), why.as_str()))
            .collect();
        assert_eq!(told, expected, "{}", self.transcript);
        self
    }

    /// What stderr's blocks tell: each invoice, and the reason as JSON has it. Anything else is there by
    /// mistake.
    #[track_caller]
    pub fn told(&self) -> Vec<(String, String)> {
        let blocks = self.stderr.trim_end().split("\n\n");
        let is_rest = |block: &str| line_matches("and [..] more: reconcile --dry-run", block);
        let blocks = blocks.filter(|block| !block.is_empty() && !is_rest(block));
        let read = |block: &str| {
            let (_, id) = block.rsplit_once("\ninvoice ")?;
            let mut beginning = block.lines().take(2);
            let (_, why) = beginning.find_map(|line| line.rsplit_once(" old: "))?;
            Some((id.to_owned(), why.replace(' ', "_")))
        };
        blocks
            .map(|block| read(block).unwrap_or_else(|| panic!("no block: {}", self.transcript)))
            .collect()
    }

    /// The command or statement that a block advises, by how it begins.
    #[track_caller]
    pub fn advised(&self, beginning: &str) -> String {
        let lines = self.stdout.lines().chain(self.stderr.lines());
        let mut lines = lines.map(str::trim_start);
        let found = lines.find(|line| line.starts_with(beginning));
        found
            .unwrap_or_else(|| panic!("no {beginning}: {}", self.transcript))
            .to_owned()
    }

    /// Checks that a line of stderr is this one; as for [`Self::prints`].
    #[track_caller]
    pub fn says(self, line: &str) -> Self {
        let said = self
            .stderr
            .lines()
            .any(|found| line_matches(line, found.trim_start()));
        assert!(
            said,
            "expected on stderr:\n{line}\ngot: {}",
            self.transcript
        );
        self
    }

    /// The same with another order of its lines.
    pub fn with_stdout(self, stdout: String) -> Self {
        Self { stdout, ..self }
    }

    #[track_caller]
    pub fn says_nothing(self) -> Self {
        self.prints("").warns("")
    }
}

/// What a report says that a person has to do; when it was noted, only a real run can tell.
pub fn what_needs_a_person(report: &Value) -> Value {
    let mut attention = report["attention"].clone();
    for item in attention.as_array_mut().unwrap() {
        item["since"].take();
    }
    attention
}

fn matches(expected: &str, found: &str) -> bool {
    let (expected, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    expected.len() == found.len()
        && expected
            .iter()
            .zip(found)
            .all(|(pattern, line)| line_matches(pattern.trim_start(), line.trim_start()))
}

pub fn line_matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("[..]");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap()) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A file on a disk that is full.
pub fn full_disk() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}
