//! Everything that is wrong with a configuration, told at once.
//!
//! A line names the key, then the value found, then the form that is accepted, so that it can be mended without opening
//! the reference.

use std::path::Path;

use super::{Field, key};

/// Everything that is wrong with a configuration, in the order in which it was found.
///
/// Of one key only the first mistake is told, and likewise of a key and those above or below it: after a refusal the
/// later checks look at a default, and what they find to be wrong with that is nobody's mistake.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mistakes {
    lines: Vec<String>,
    /// The keys that `lines` are about.
    about: Vec<String>,
}

impl Mistakes {
    /// A value that is not of the accepted form.
    pub fn refuse(&mut self, key: &str, found: &dyn std::fmt::Display, accepted: &str) {
        self.tell(key, &format!("{key} = {}: expected {accepted}", on_one_line(&found.to_string())));
    }

    /// A key that must be given.
    pub fn missing(&mut self, key: &str, accepted: &str) {
        self.tell(key, &format!("{key}: missing; expected {accepted}"));
    }

    /// A key that does not exist in the table `at`, whose options are `known`.
    pub fn unknown(&mut self, at: &str, name: &str, known: &[Field]) {
        let place = key(at, &on_one_line(name));
        let line = match nearest(name, known) {
            Some(meant) => format!("{place}: no such option; did you mean `{meant}`?"),
            None => {
                let names: Vec<&str> = known.iter().map(|f| f.name).collect();
                format!("{place}: no such option; the options here are {}", names.join(", "))
            }
        };
        self.tell(&place, &line);
    }

    /// `text` is not TOML.
    ///
    /// The line itself is not shown: what is not TOML may well be a secret that lost its quotes.
    pub fn syntax(&mut self, text: &str, error: &toml::de::Error) {
        let message = on_one_line(error.message());
        self.lines.push(match error.span().and_then(|span| text.get(..span.start)) {
            Some(before) => {
                let line = before.matches('\n').count() + 1;
                let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
                format!("line {line}, column {column}: not TOML: {message}")
            }
            None => format!("not TOML: {message}"),
        });
    }

    /// Anything else: `key`, then what is wrong and what to do.
    pub fn say(&mut self, key: &str, what: &str) {
        self.tell(key, &format!("{key}: {what}"));
    }

    /// Whether something was told about `key`, a key below it, or one above it: its value may not be what was written.
    pub fn is_about(&self, key: &str) -> bool {
        self.about.iter().any(|told| is_below(told, key) || is_below(key, told))
    }

    fn tell(&mut self, key: &str, line: &str) {
        if !self.is_about(key) {
            self.lines.push(without_secrets(line));
            self.about.push(key.to_owned());
        }
    }

    /// Names the file in front of every mistake found so far.
    pub fn in_file(&mut self, file: &Path) {
        for text in self.lines.iter_mut().chain(&mut self.about) {
            *text = format!("{}: {text}", file.display());
        }
    }

    /// True when nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The mistakes, one each.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// A text in which whatever looks like a secret key is left out (R4): people paste one where its file or its public half
/// belongs. After a colon, more base 64 than a public key has.
pub fn without_secrets(text: &str) -> String {
    const PUBLIC: usize = 44;
    let is_base64 = |b: char| b.is_ascii_alphanumeric() || matches!(b, '+' | '/' | '=');
    let mut shown = String::with_capacity(text.len());
    for (n, part) in text.split(':').enumerate() {
        let run = part.find(|b| !is_base64(b)).unwrap_or(part.len());
        if n > 0 {
            shown.push(':');
        }
        match n > 0 && run > PUBLIC && !part.starts_with('/') {
            true => {
                shown.push_str("*** (this looks like a secret key; it belongs into a file of its own)");
                shown.push_str(&part[run..]);
            }
            false => shown.push_str(part),
        }
    }
    shown
}

impl std::fmt::Display for Mistakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// Whether `key` is `above` or stands in its table or list: `store.dir` in `store`, `listen[0].tls` in `listen`.
fn is_below(key: &str, above: &str) -> bool {
    key.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// At most so much of a refused value is shown.
const SHOWN: usize = 120;

/// What was found, such that it stays one line of a log or a terminal.
fn on_one_line(found: &str) -> String {
    let mut shown = String::new();
    for (n, c) in found.chars().enumerate() {
        if n == SHOWN {
            shown.push_str("...");
            break;
        }
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// The option that was probably meant: a third of its letters may differ.
fn nearest(name: &str, known: &[Field]) -> Option<&'static str> {
    let near = |f: &Field| (distance(name, f.name), f.name);
    known.iter().map(near).min().filter(|(d, meant)| *d <= meant.len().div_ceil(3)).map(|(_, meant)| meant)
}

/// Letters to insert, remove or replace to turn `a` into `b` (Levenshtein), row by row.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r4_a_secret_key_in_the_wrong_place_is_not_told() {
        let secret = "a".repeat(86) + "==";
        let mut mistakes = Mistakes::default();
        mistakes.refuse("public_keys[0]", &format!("\"snow-1:{secret}\""), "a public key");
        mistakes.say("key_files[0]", &format!("key file snow-1:{secret}: cannot be opened"));
        let told = mistakes.to_string();
        assert!(!told.contains("aaaa") && told.contains("snow-1:***") && told.contains("cannot be opened"), "{told}");
        let fine = "x:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY= unix:/a/very/long/path/to/some/socket/that/is/somewhere/else";
        assert_eq!(without_secrets(fine), fine);
    }

    #[test]
    fn distances() {
        for (a, b, d) in
            [("", "", 0), ("", "dir", 3), ("dri", "dir", 2), ("public_key", "public_keys", 1), ("x", "y", 1)]
        {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }

    #[test]
    fn of_one_key_only_the_first_mistake_is_told() {
        let mut mistakes = Mistakes::default();
        for key in ["a[1].keys[0]", "a[1].keys[2]", "a[1].keys", "a", "a[1]", "a[1].key", "tls", "tls.names", "tlss"] {
            mistakes.say(key, "wrong");
        }
        let told: Vec<&str> = mistakes.lines().iter().map(|line| line.trim_end_matches(": wrong")).collect();
        assert_eq!(told, ["a[1].keys[0]", "a[1].keys[2]", "a[1].key", "tls", "tlss"]);
        mistakes.in_file(Path::new("/f"));
        assert!(mistakes.is_about("/f: tls.names") && !mistakes.is_about("tls.names"));
    }

    #[test]
    fn a_refused_value_stays_on_one_short_line() {
        let mut mistakes = Mistakes::default();
        mistakes.refuse("key", &format!("a\nb\u{1b}{}", "x".repeat(500)), "less");
        let line = &mistakes.lines()[0];
        assert!(line.starts_with("key = a\\nb\\u{1b}xx") && line.ends_with("x...: expected less"), "{line}");
        assert!(line.len() < 200);
    }
}
