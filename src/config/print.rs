//! A configuration as text: what holds, or the example file with every option and its documentation.
//!
//! The order is that of the declarations, tables after plain keys, so that the text reads like the reference.

use crate::options::{Description, Field, Shape};

/// How much is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The options and their values.
    Values,
    /// The same, each with its documentation above it.
    Documented,
    /// The same as [`Detail::Documented`], the options as comments: a file to start from.
    Example,
}

/// Prints the options of `description` with the values in `table`.
pub(super) fn print(description: &Description, table: &toml::Table, detail: Detail) -> String {
    let mut page = Page { text: String::new(), detail };
    page.fields(description, table, "");
    page.text
}

struct Page {
    text: String,
    detail: Detail,
}

impl Page {
    fn fields(&mut self, description: &Description, table: &toml::Table, at: &str) {
        // A list of no tables has no heading to stand under: it is written as a value.
        let empty = |f: &Field| table.get(f.name).and_then(toml::Value::as_array).is_some_and(Vec::is_empty);
        let is_plain = |f: &&Field| matches!(f.shape, Shape::Plain);
        for field in description.fields.iter().filter(|f| is_plain(f) || empty(f)) {
            self.value(field, table.get(field.name));
        }
        for field in description.fields.iter().filter(|f| !is_plain(f)) {
            let place = crate::options::key(at, field.name);
            match (field.shape, table.get(field.name)) {
                (Shape::Table(inner), Some(toml::Value::Table(table))) => {
                    self.table(inner, table, &format!("[{place}]"), &place, true);
                }
                (Shape::Tables(inner), Some(toml::Value::Array(tables))) => {
                    for (n, table) in tables.iter().filter_map(toml::Value::as_table).enumerate() {
                        self.table(inner, table, &format!("[[{place}]]"), &place, n == 0);
                    }
                }
                _ => {}
            }
            if let (Shape::Table(inner), None) | (Shape::Tables(inner), _) = (field.shape, table.get(field.name))
                && table.get(field.name).is_none_or(|value| value.as_array().is_some_and(Vec::is_empty))
            {
                self.absent(field, inner, &place);
            }
        }
    }

    /// A table that is not there: what could stand in it, as comments.
    fn absent(&mut self, field: &Field, inner: &Description, place: &str) {
        if self.detail == Detail::Values {
            return;
        }
        self.text.push('\n');
        self.doc(inner.doc);
        let heading = match field.shape {
            Shape::Tables(_) => format!("[[{place}]]"),
            _ => format!("[{place}]"),
        };
        self.text.push_str(&format!("# {heading}: not set; these are its options\n"));
        for field in inner.fields {
            self.value(field, None);
        }
    }

    /// One table under its heading. The documentation is written for the `first` of several only.
    fn table(&mut self, inner: &Description, table: &toml::Table, heading: &str, at: &str, first: bool) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let detail = self.detail;
        if !first && detail == Detail::Documented {
            self.detail = Detail::Values;
        }
        if first {
            self.doc(inner.doc);
        }
        self.option(heading);
        if !first && detail == Detail::Example {
            // What the first one documents is not said again: only what differs from an empty table is.
            for field in inner.fields {
                if let Some(value) = table.get(field.name).filter(|v| (field.default)() != Some(v.to_string())) {
                    self.option(&format!("{} = {value}", field.name));
                }
            }
        } else {
            self.fields(inner, table, at);
        }
        self.detail = detail;
    }

    fn value(&mut self, field: &Field, value: Option<&toml::Value>) {
        if self.detail != Detail::Values {
            self.text.push('\n');
            self.doc(field.doc);
        }
        match value {
            Some(value) => self.option(&format!("{} = {value}", field.name)),
            None if self.detail == Detail::Values => {}
            None => self.text.push_str(&format!("# {}: not set; takes {}\n", field.name, (field.accepted)())),
        }
    }

    fn doc(&mut self, doc: &str) {
        if self.detail != Detail::Values {
            for line in doc.lines() {
                self.text.push_str(format!("#{line}").trim_end());
                self.text.push('\n');
            }
        }
    }

    fn option(&mut self, line: &str) {
        if self.detail == Detail::Example {
            self.text.push('#');
        }
        self.text.push_str(line);
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Period, Table};

    crate::options! {
        /// Below.
        pub struct Inner {
            /// How long.
            pub time: Period = Period::seconds(1),
            /// Which.
            pub which: Option<u32> = None,
        }
    }
    crate::options! {
        /// Above.
        pub struct Outer {
            /// Several.
            pub list: Vec<Inner> = Vec::new(),
            /// One.
            pub one: Inner,
            /// None.
            pub none: Option<Inner> = None,
            /// A word.
            ///
            /// And more.
            pub word: String = "a \"b\"".to_owned(),
        }
    }

    fn printed(detail: Detail) -> String {
        let outer = Outer::from_toml("[[list]]\n[[list]]\nwhich = 2").unwrap();
        print(&Outer::DESCRIPTION, &outer.write_table(), detail)
    }

    #[test]
    fn values_alone() {
        let text = printed(Detail::Values);
        assert_eq!(
            text,
            "word = 'a \"b\"'\n\n[[list]]\ntime = \"1 s\"\n\n[[list]]\ntime = \"1 s\"\nwhich = 2\n\n\
             [one]\ntime = \"1 s\"\n"
        );
        assert_eq!(Outer::from_toml(&text).unwrap().list[1].which, Some(2));
    }

    #[test]
    fn documented_values_read_the_same() {
        let text = printed(Detail::Documented);
        assert_eq!(Outer::from_toml(&text), Outer::from_toml(&printed(Detail::Values)));
        assert!(text.starts_with("\n# A word.\n#\n# And more.\nword = "), "{text}");
        assert_eq!(text.matches("# How long.").count(), 3, "once for [[list]], [one] and [none] each: {text}");
        assert!(text.contains("# [none]: not set;") && text.contains("# time: not set; takes a time"), "{text}");
    }

    #[test]
    fn the_example_is_all_comments_and_reads_the_same_without_them() {
        let text = printed(Detail::Example);
        assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{text}");
        let options = text.lines().filter(|line| !line.starts_with("# ") && *line != "#");
        let bare: String = options.map(|line| format!("{}\n", line.trim_start_matches('#'))).collect();
        assert_eq!(Outer::from_toml(&bare), Outer::from_toml(&printed(Detail::Values)));
        assert!(text.contains("# which: not set; takes a whole number"), "{text}");
    }
}
