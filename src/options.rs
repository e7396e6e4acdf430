//! Tables of options: struct, default, documentation and parser from one declaration.
//!
//! A room declares what can be set in it with [`options!`](crate::options!); the `config` room puts the tables
//! together, reads the file and prints the reference. A new option is one field here or there, plus its use.
//!
//! Reading never stops at the first mistake: every table and value writes what is wrong into [`Mistakes`], with the
//! key, the value found and the form that is accepted.
//!
//! Out of scope: files, the command line, and checks that look at more than one table (see `config`).

mod value;

pub use value::{ByteSize, Period, Value};

/// One option of a table, as the reference shows it.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The key in the file.
    pub name: &'static str,
    /// Its documentation: the doc comment of the field, one line per line.
    pub doc: &'static str,
    /// The default as TOML, or `None` when the key is required or has no value unless set.
    pub default: fn() -> Option<String>,
    /// True when the key must be given.
    pub required: bool,
    /// What is accepted, for the reference.
    pub accepted: fn() -> String,
    /// The options inside, when the value is a table or a list of tables.
    pub inner: Option<&'static [Field]>,
}

/// A table of options made by [`options!`](crate::options!).
pub trait Table: Sized {
    /// The table's own documentation.
    const DOC: &'static str;
    /// Its options in the order of their declaration.
    const FIELDS: &'static [Field];

    /// Reads the table. `None` when a required key is missing or a value was refused; `mistakes` says which.
    fn read_table(table: toml::Table, at: &str, mistakes: &mut Mistakes) -> Option<Self>;

    /// The table with every default filled in.
    fn write_table(&self) -> toml::Table;

    /// Reads a table from TOML text.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    fn from_toml(text: &str) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let read = match text.parse::<toml::Table>() {
            Ok(table) => Self::read_table(table, "", &mut mistakes),
            Err(error) => {
                mistakes.syntax(&error);
                None
            }
        };
        match read {
            Some(table) if mistakes.is_empty() => Ok(table),
            _ => Err(mistakes),
        }
    }
}

/// Everything that is wrong with a configuration, in the order in which it was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<String>);

impl Mistakes {
    /// A value that is not of the accepted form.
    pub fn refuse(&mut self, key: &str, found: &dyn std::fmt::Display, accepted: &str) {
        self.0.push(format!("{key} = {found}: expected {accepted}"));
    }

    /// A key that must be given.
    pub fn missing(&mut self, key: &str, accepted: &str) {
        self.0.push(format!("{key}: missing; expected {accepted}"));
    }

    /// A key that does not exist.
    pub fn unknown(&mut self, key: &str, known: &[Field]) {
        let names: Vec<&str> = known.iter().map(|f| f.name).collect();
        self.0.push(format!("{key}: no such option; the options here are {}", names.join(", ")));
    }

    /// The text is not TOML.
    pub fn syntax(&mut self, error: &toml::de::Error) {
        self.0.push(format!("not TOML: {}", error.to_string().trim().replace('\n', "\n    ")));
    }

    /// Anything else: `key`, then what is wrong and what to do.
    pub fn say(&mut self, key: &str, what: &str) {
        self.0.push(format!("{key}: {what}"));
    }

    /// True when nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mistakes, one each.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl std::fmt::Display for Mistakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, line) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            f.write_str(line)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Joins a table's place and a key: `store` and `disk` give `store.disk`.
pub fn key(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// Declares a table of options.
///
/// ```
/// snowbank::options! {
///     /// Where things are kept.
///     pub struct Shelf {
///         /// How many boards it has.
///         pub boards: u32 = 3,
///         /// What it is called; must be given.
///         pub name: String,
///     }
/// }
/// use snowbank::options::Table;
/// let shelf = Shelf::from_toml("name = 'left'").unwrap();
/// assert_eq!(shelf.boards, 3);
/// assert!(Shelf::from_toml("board = 1").unwrap_err().to_string().contains("board: no such option"));
/// ```
#[macro_export]
macro_rules! options {
    (
        $(#[doc = $table_doc:expr])*
        pub struct $table:ident {
            $( $(#[doc = $doc:expr])* pub $field:ident : $type:ty $(= $default:expr)? ),* $(,)?
        }
    ) => {
        $(#[doc = $table_doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $table { $( $(#[doc = $doc])* pub $field: $type, )* }

        impl $crate::options::Table for $table {
            const DOC: &'static str = concat!($($table_doc, "\n"),*);
            const FIELDS: &'static [$crate::options::Field] = &[ $( $crate::options::Field {
                name: stringify!($field),
                doc: concat!($($doc, "\n"),*),
                default: || {
                    let default: Option<$type> = $crate::options!(@default $type $(, $default)?);
                    default.as_ref().and_then(<$type as $crate::options::Value>::write).map(|v| v.to_string())
                },
                required: $crate::options!(@required $($default)?),
                accepted: <$type as $crate::options::Value>::accepted,
                inner: <$type as $crate::options::Value>::INNER,
            } ),* ];

            fn read_table(mut table: toml::Table, at: &str, mistakes: &mut $crate::options::Mistakes) -> Option<Self> {
                $( let $field: Option<$type> = match table.remove(stringify!($field)) {
                    Some(found) => <$type as $crate::options::Value>::read(found, &$crate::options::key(at, stringify!($field)), mistakes),
                    None => {
                        let default: Option<$type> = $crate::options!(@default $type $(, $default)?);
                        if default.is_none() {
                            mistakes.missing(
                                &$crate::options::key(at, stringify!($field)),
                                &<$type as $crate::options::Value>::accepted(),
                            );
                        }
                        default
                    }
                }; )*
                for unknown in table.keys() {
                    mistakes.unknown(&$crate::options::key(at, unknown), Self::FIELDS);
                }
                Some(Self { $( $field: $field?, )* })
            }

            fn write_table(&self) -> toml::Table {
                let mut table = toml::Table::new();
                $( if let Some(value) = <$type as $crate::options::Value>::write(&self.$field) {
                    table.insert(stringify!($field).to_owned(), value);
                } )*
                table
            }
        }

        impl $crate::options::Value for $table {
            const INNER: Option<&'static [$crate::options::Field]> = Some(<Self as $crate::options::Table>::FIELDS);
            fn read(found: toml::Value, at: &str, mistakes: &mut $crate::options::Mistakes) -> Option<Self> {
                match found {
                    toml::Value::Table(table) => <Self as $crate::options::Table>::read_table(table, at, mistakes),
                    other => { mistakes.refuse(at, &other, "a table"); None }
                }
            }
            fn write(&self) -> Option<toml::Value> {
                Some(toml::Value::Table(<Self as $crate::options::Table>::write_table(self)))
            }
            fn accepted() -> String { "a table".to_owned() }
        }
    };
    (@default $type:ty) => { None };
    (@default $type:ty, $default:expr) => { Some($default) };
    (@required) => { true };
    (@required $default:expr) => { false };
}
