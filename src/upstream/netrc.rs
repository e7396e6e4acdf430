//! The netrc file: which login and password is for which machine, read as curl reads it (everything.curl.dev/usingcurl/netrc;
//! curl's `lib/netrc.c`), because Nix's `netrc-file` is read by curl and the same file is given here.
//!
//! Words are separated by blanks. `machine NAME` and `default` begin an entry; the first that fits counts, and `default`
//! fits always. A word may be quoted, with `\n`, `\r`, `\t` and any other character after a backslash. `#` where a word
//! would begin makes a comment of the rest of the line. `macdef` defines a macro up to an empty line, which is skipped.
//! Logins may be missing: Cachix and Attic put their tokens into `password` alone.

use zeroize::Zeroizing;

/// Who one is to a machine.
pub(super) struct Login {
    /// Empty where the file says none.
    pub(super) user: Zeroizing<String>,
    pub(super) password: Zeroizing<String>,
}

/// Why a file cannot be read. No word of the file is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("line {0}: a quote that is not closed")]
    Quote(usize),
    #[error("line {0}: nothing after a word that wants a value")]
    Value(usize),
}

/// What waits for the next word.
#[derive(Clone, Copy)]
enum Wanted {
    Key,
    Machine,
    User,
    Password,
    /// The value of `account`, and the name of a macro.
    Ignored,
}

/// The login for `host` in the text of a file; `None` when no entry with a password fits.
///
/// # Errors
/// The text is no netrc file, up to the entry that fits.
pub(super) fn login(text: &str, host: &str) -> Result<Option<Login>, Error> {
    let mut found = Found::default();
    let mut wanted = Wanted::Key;
    let (mut in_macro, mut lines) = (false, 0);
    for (line, number) in text.lines().zip(1..) {
        lines = number;
        if in_macro {
            in_macro = !line.trim_ascii().is_empty();
            continue;
        }
        let mut rest = line;
        while let Some(word) = next_word(&mut rest).ok_or(Error::Quote(number))? {
            wanted = match wanted {
                Wanted::Key if word.eq_ignore_ascii_case("macdef") => {
                    in_macro = true;
                    Wanted::Ignored
                }
                Wanted::Key => match found.key(&word) {
                    Some(wanted) => wanted,
                    None => return Ok(found.login()),
                },
                Wanted::Machine => {
                    found.fits = word.eq_ignore_ascii_case(host);
                    Wanted::Key
                }
                Wanted::User => found.take(word, |found, word| found.user = word),
                Wanted::Password => found.take(word, |found, word| found.password = Some(word)),
                Wanted::Ignored => Wanted::Key,
            };
        }
    }
    match wanted {
        Wanted::Key | Wanted::Ignored => Ok(found.login()),
        _ => Err(Error::Value(lines)),
    }
}

/// The entry that fits, as far as it was read.
#[derive(Default)]
struct Found {
    fits: bool,
    user: Zeroizing<String>,
    password: Option<Zeroizing<String>>,
}

impl Found {
    /// What a key wants after it; `None` at the beginning of the entry after the one that fits.
    fn key(&mut self, word: &str) -> Option<Wanted> {
        let is = |key: &str| word.eq_ignore_ascii_case(key);
        if (is("machine") || is("default")) && self.fits {
            return None;
        }
        Some(match () {
            () if is("machine") => Wanted::Machine,
            () if is("login") => Wanted::User,
            () if is("password") => Wanted::Password,
            () if is("account") => Wanted::Ignored,
            () => {
                self.fits |= is("default");
                Wanted::Key // curl passes over words that it does not know
            }
        })
    }

    fn take(&mut self, word: Zeroizing<String>, put: impl FnOnce(&mut Self, Zeroizing<String>)) -> Wanted {
        if self.fits {
            put(self, word);
        }
        Wanted::Key
    }

    fn login(self) -> Option<Login> {
        let Self { fits, user, password } = self;
        password.filter(|_| fits).map(|password| Login { user, password })
    }
}

/// Takes the next word off a line: `None` for a quote that is not closed, `Some(None)` at the end of the line.
fn next_word(line: &mut &str) -> Option<Option<Zeroizing<String>>> {
    let rest = line.trim_ascii_start();
    if rest.is_empty() || rest.starts_with('#') {
        *line = "";
        return Some(None);
    }
    // Of its final size from the beginning, so that no copy stays behind when it grows.
    let mut word = Zeroizing::new(String::with_capacity(rest.len()));
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len());
        word.push_str(&rest[..end]);
        *line = &rest[end..];
        return Some(Some(word));
    };
    let mut characters = quoted.chars();
    loop {
        word.push(match characters.next()? {
            '"' => break,
            '\\' => match characters.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            },
            other => other,
        });
    }
    *line = characters.as_str();
    Some(Some(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str, host: &str) -> Option<(String, String)> {
        login(text, host).unwrap().map(|login| (login.user.to_string(), login.password.to_string()))
    }

    fn pair(user: &str, password: &str) -> Option<(String, String)> {
        Some((user.to_owned(), password.to_owned()))
    }

    #[test]
    fn entries_are_read_as_curl_reads_them() {
        let text = "# comment machine a login x password y\n\
                    machine a.org login u password p machine b.org password token\n\
                    machine c.org\n  LOGIN \"a \\\"b\\\" \\\\ c\"\n\taccount password\n  password \"t\\tn\\n#\"\n\
                    macdef init\nmachine d.org login no password no\n\nmachine d.org login d password #not\n p\n\
                    machine e.org login only\n\
                    default login anonymous password me\nmachine z.org login z password z\n";
        assert_eq!(read(text, "a.org"), pair("u", "p"));
        assert_eq!(read(text, "A.ORG"), pair("u", "p"));
        assert_eq!(read(text, "b.org"), pair("", "token"));
        assert_eq!(read(text, "c.org"), pair("a \"b\" \\ c", "t\tn\n#"));
        assert_eq!(read(text, "d.org"), pair("d", "p"), "a comment stands in front of the value");
        assert_eq!(read(text, "e.org"), None);
        assert_eq!(read(text, "z.org"), pair("anonymous", "me"), "the first that fits counts");
        assert_eq!(read("machine a.org login x", "b.org"), None);
        assert_eq!(read("", "a.org"), None);
    }

    #[test]
    fn what_is_no_netrc_is_told_by_its_line_alone() {
        let told = |text: &str| login(text, "a").map(|_| ()).unwrap_err().to_string();
        assert_eq!(told("machine a\npassword \"secret"), "line 2: a quote that is not closed");
        assert_eq!(told("machine a password \"secret\\"), "line 1: a quote that is not closed");
        assert_eq!(told("machine a login secret\npassword"), "line 2: nothing after a word that wants a value");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(machine|default|login|password|account|macdef|a|\"|\\\\|#|[ \t\r\n]|é|\\PC){0,60}") {
            let _ = login(&text, "a");
        }

        #[test]
        fn a_quoted_value_comes_back(user in "[^\r\n]{0,20}", password in "\\PC{0,20}") {
            let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let text = format!("machine a login {} password {}", quoted(&user), quoted(&password));
            prop_assert_eq!(read(&text, "a"), pair(&user, &password));
        }
    }
}
