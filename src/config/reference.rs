//! The reference of every option, generated from the declarations: an example file and the tables of the README.
//!
//! Both are checked in, so that they can be read without building anything. A test fails when they are stale;
//! `SNOWBANK_BLESS=1 cargo test` writes them anew.

use super::{Config, Detail, Environment};
use crate::options::{Description, Mistakes, Shape, Table};

/// The configuration of a service without a file, as the reference shows it.
fn of_a_service() -> Option<Config> {
    let environment = Environment { root: true, ..Environment::default() };
    Config::read("", &environment, &mut Mistakes::default())
}

/// A file that changes nothing until something in it is uncommented.
pub fn example() -> Option<String> {
    let options = of_a_service()?.print(Detail::Example);
    Some(format!(
        "\
# Every option of snowbank, commented out, with its default. Generated: the texts stand where the options are declared.
# Check a file with `snowbank check-config FILE`; see what holds with `snowbank print-config --config FILE`.

{options}"
    ))
}

/// The tables of the README.
pub fn markdown() -> String {
    let mut text = String::new();
    tables(&mut text, &Config::DESCRIPTION, "");
    text
}

fn tables(text: &mut String, description: &Description, at: &str) {
    for field in description.fields {
        let place = crate::options::key(at, field.name);
        let (inner, heading) = match field.shape {
            Shape::Plain => continue,
            Shape::Table(inner) => (inner, format!("[{place}]")),
            Shape::Tables(inner) => (inner, format!("[[{place}]]")),
        };
        text.push_str(&format!(
            "\n### `{heading}`\n\n{}\n\n| option | takes | default | |\n|---|---|---|---|\n",
            on_one_line(inner.doc)
        ));
        for option in inner.fields.iter().filter(|f| matches!(f.shape, Shape::Plain)) {
            let default = match (option.default)() {
                Some(default) => format!("`{}`", on_one_line(&default)),
                None if option.required => "required".to_owned(),
                None => "not set".to_owned(),
            };
            let (accepted, doc) = (on_one_line(&(option.accepted)()), on_one_line(option.doc));
            text.push_str(&format!("| `{}` | {accepted} | {default} | {doc} |\n", option.name));
        }
        tables(text, inner, &place);
    }
}

/// A cell of a table.
fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "\\<")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn in_the_tree(path: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    /// Compares a checked-in text with what it should be, or makes it so.
    fn assert_fresh(path: &str, current: &str, fresh: &str) {
        if std::env::var_os("SNOWBANK_BLESS").is_some() {
            std::fs::write(in_the_tree(path), fresh).unwrap();
        } else {
            assert!(current == fresh, "{path} is stale: run `SNOWBANK_BLESS=1 cargo test` and commit it");
        }
    }

    #[test]
    fn the_example_file_is_fresh() {
        let path = "config/snowbank.example.toml";
        let current = std::fs::read_to_string(in_the_tree(path)).unwrap_or_default();
        assert_fresh(path, &current, &example().unwrap());
    }

    #[test]
    fn the_readme_is_fresh() {
        let current = std::fs::read_to_string(in_the_tree("README.md")).unwrap();
        let (begin, end) = ("<!-- options:begin -->\n", "<!-- options:end -->");
        let (before, rest) = current.split_once(begin).expect("README.md has the marker where the options begin");
        let (_, after) = rest.split_once(end).expect("README.md has the marker where the options end");
        assert_fresh("README.md", &current, &format!("{before}{begin}{}\n{end}{after}", markdown()));
    }

    #[test]
    fn the_example_uncommented_is_the_default() {
        let text = example().unwrap();
        let options = text.lines().filter(|line| !line.starts_with("# ") && *line != "#");
        let bare: String = options.map(|line| format!("{}\n", line.trim_start_matches('#'))).collect();
        let mut mistakes = Mistakes::default();
        let read = Config::read(&bare, &Environment::default(), &mut mistakes);
        assert_eq!(mistakes.lines(), [""; 0]);
        assert_eq!(read, of_a_service());
    }

    /// Every option's full key with its documentation, and whether it is a value and not a table.
    fn documented(description: &Description, at: &str) -> Vec<(String, &'static str, bool)> {
        let below = |field: &crate::options::Field| {
            let place = crate::options::key(at, field.name);
            let mut options = match field.shape {
                Shape::Plain => vec![],
                Shape::Table(inner) | Shape::Tables(inner) => documented(inner, &place),
            };
            options.push((place, field.doc, matches!(field.shape, Shape::Plain)));
            options
        };
        description.fields.iter().flat_map(below).collect()
    }

    #[test]
    fn every_option_is_in_both() {
        let (example, markdown) = (example().unwrap(), markdown());
        let options = documented(&Config::DESCRIPTION, "");
        assert!(options.len() > 30, "{}", options.len());
        for (place, doc, is_value) in options {
            assert!(doc.trim_end().ends_with('.'), "{place} is documented: {doc:?}");
            let (heading, name) = place.rsplit_once('.').unwrap_or(("", &place));
            if !is_value {
                assert!(markdown.contains(&format!("[{place}]")) && example.contains(&format!("[{place}]")), "{place}");
            } else {
                let is_its =
                    |section: &&str| section.lines().next().is_some_and(|h| h.contains(&format!("[{heading}]")));
                let section = markdown.split("\n### ").find(is_its).unwrap();
                assert!(section.contains(&format!("\n| `{name}` |")), "{place}");
                let set = example.contains(&format!("\n#{name} = "));
                assert!(set || example.contains(&format!("\n# {name}: not set; ")), "{place}");
            }
        }
    }
}
