//! A short, escaped piece of foreign text for an error message.
//!
//! Error values outlive the text they are about and end in logs and on terminals, so they keep a bounded copy without
//! control characters (R25), never the text itself.

use std::fmt;

/// How many characters of the text an excerpt shows.
pub const SHOWN_CHARS: usize = 60;

/// The first [`SHOWN_CHARS`] characters of a text, escaped as Rust would in a string literal, shown between backquotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt(String);

impl Excerpt {
    /// The beginning of `text`.
    pub fn of(text: &str) -> Self {
        let mut shown: String = text.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
        if text.chars().nth(SHOWN_CHARS).is_some() {
            shown.push('…');
        }
        Self(shown)
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_is_shown_whole_and_escaped() {
        assert_eq!(Excerpt::of("abc").to_string(), "`abc`");
        assert_eq!(Excerpt::of("a\r\n\u{1b}[31m\u{202e}").to_string(), "`a\\r\\n\\u{1b}[31m\\u{202e}`");
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let shown = Excerpt::of(&"ä".repeat(1000)).to_string();
        assert_eq!(shown, format!("`{}…`", "ä".repeat(SHOWN_CHARS)));
        assert_eq!(Excerpt::of(&"x".repeat(SHOWN_CHARS)).to_string(), format!("`{}`", "x".repeat(SHOWN_CHARS)));
    }
}
