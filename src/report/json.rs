//! Writes the report as JSON; its fields are in `report`.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use super::Report;
use super::escape::must_be_escaped;
use crate::secret;

/// Writes `report` as one object on one line.
pub fn write(out: &mut impl Write, report: &Report) -> io::Result<()> {
    report.serialize(&mut Serializer::with_formatter(&mut *out, Escaping))?;
    writeln!(out)
}

/// JSON does not require escaping everything that a terminal acts on.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let fragment = secret::without_ours(fragment);
        let mut rest = &*fragment;
        while let Some((place, c)) = rest.char_indices().find(|(_, c)| must_be_escaped(*c)) {
            let (before, after) = rest.split_at(place);
            out.write_all(before.as_bytes())?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = after.get(c.len_utf8()..).unwrap_or_default();
        }
        out.write_all(rest.as_bytes())
    }
}
