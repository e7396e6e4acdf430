//! A file of keys as the tools of AWS write it: `~/.aws/credentials`.
//!
//! ```text
//! [default]
//! aws_access_key_id = …
//! aws_secret_access_key = …
//! aws_session_token = …
//! ```
//!
//! One section of it is read, by its name; what else stands there is for other programs.

use std::fmt;
use std::sync::Arc;

use object_store::aws::AwsCredential;

use crate::nix::excerpt::Excerpt;
use crate::upstream::secret_file::Secret;

/// The section of this name.
#[derive(Debug, Clone)]
pub(super) struct Profile(pub(super) String);

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the keys from its credentials_file")
    }
}

impl Secret for Profile {
    type Held = Arc<AwsCredential>;

    fn parse(&self, text: &str) -> Result<Option<Arc<AwsCredential>>, String> {
        let (mut key_id, mut secret_key, mut token) = (None, None, None);
        let (mut inside, mut found) = (false, false);
        for (n, line) in text.lines().enumerate() {
            let told = |what: &str| format!("line {}: {what}", n + 1);
            if line.starts_with([' ', '\t']) {
                continue; // belongs to the setting above it
            }
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[') {
                let name = name.strip_suffix(']').ok_or_else(|| told("a section without `]`"))?.trim();
                inside = name == self.0 || name.strip_prefix("profile ").is_some_and(|name| name.trim() == self.0);
                found |= inside;
                continue;
            }
            let (name, value) = line.split_once('=').ok_or_else(|| told("neither a section nor `name = value`"))?;
            let slot = match name.trim() {
                "aws_access_key_id" => &mut key_id,
                "aws_secret_access_key" => &mut secret_key,
                "aws_session_token" => &mut token,
                _ => continue,
            };
            if inside {
                *slot = Some(word(value.trim()).ok_or_else(|| told("blanks, or characters that no key has"))?);
            }
        }
        match (key_id, secret_key) {
            (Some(key_id), Some(secret_key)) => Ok(Some(Arc::new(AwsCredential { key_id, secret_key, token }))),
            _ if found => Err(format!(
                "[{}] has not both aws_access_key_id and aws_secret_access_key; nothing else is understood",
                self.0
            )),
            _ => Err(format!("no section [{}] in it; its name is `profile` in the url", Excerpt::of(&self.0))),
        }
    }
}

/// What can stand in a header.
fn word(text: &str) -> Option<String> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(profile: &str, text: &str) -> Result<(String, String, Option<String>), String> {
        let keys = Profile(profile.to_owned()).parse(text)?.unwrap();
        Ok((keys.key_id.clone(), keys.secret_key.clone(), keys.token.clone()))
    }

    #[test]
    fn the_section_is_read_and_no_other() {
        let text = "# mine\n[default]\naws_access_key_id=AK\naws_secret_access_key = s/k+=\n\nregion = x\ns3 =\n  a = b\n\
                    [profile reader]\r\naws_access_key_id = RK\r\naws_secret_access_key = rs\r\n; and\n\
                    aws_session_token = to==\n[half]\naws_access_key_id = HK\n";
        assert_eq!(read("default", text), Ok(("AK".into(), "s/k+=".into(), None)));
        assert_eq!(read("reader", text), Ok(("RK".into(), "rs".into(), Some("to==".into()))));
        assert!(read("half", text).unwrap_err().starts_with("[half] has not both"));
        assert!(read("nobody", text).unwrap_err().starts_with("no section [`nobody`]"));
    }

    #[test]
    fn a_mistake_is_told_by_its_line_without_the_secret() {
        for (text, line) in [
            ("[default]\naws_secret_access_key s3cret", "line 2: neither"),
            ("[default\naws_secret_access_key = s3cret", "line 1: a section"),
            ("[default]\n\naws_secret_access_key = s3cret and more", "line 3: blanks"),
            ("[default]\naws_access_key_id =", "line 2: blanks"),
        ] {
            let told = read("default", text).unwrap_err();
            assert!(told.starts_with(line) && !told.contains("s3cret"), "{told}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(\\[|\\]|=|#|;| |\n|\r|default|aws_access_key_id|aws_secret_access_key|[a-z\u{e9}]){0,40}") {
            if let Ok((key_id, secret, _)) = read("default", &text) {
                let is_word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
                proptest::prop_assert!(is_word(&key_id) && is_word(&secret));
            }
        }
    }
}
