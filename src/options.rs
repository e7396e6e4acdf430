//! Tables of options: struct, default, documentation and parser from one declaration.
//!
//! A room declares what can be set in it with [`options!`](crate::options!); the `config` room puts the tables
//! together, reads the file and prints the reference. A new option is one field here or there, plus its use.
//!
//! Reading never stops at the first mistake: every table and value writes what is wrong into [`Mistakes`], with the
//! key, the value found and the form that is accepted. A refused value is replaced by the option's default, so that
//! later checks have something to look at.
//!
//! Out of scope: files, the command line, and checks that look at more than one table (see `config`).

mod choice;
mod mistakes;
mod value;

pub use mistakes::Mistakes;
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
    /// Whether the value is a table or a list of tables.
    pub shape: Shape,
}

/// How a value is laid out in the file.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// `key = value`
    Plain,
    /// `[key]` with these options below it.
    Table(&'static Description),
    /// `[[key]]`, any number of times, each with these options below it.
    Tables(&'static Description),
}

/// A table as the reference shows it.
#[derive(Debug, Clone, Copy)]
pub struct Description {
    /// The table's own documentation, one line per line.
    pub doc: &'static str,
    /// Its options in the order of their declaration.
    pub fields: &'static [Field],
}

/// A table of options made by [`options!`](crate::options!).
pub trait Table: Sized {
    /// Its documentation and its options.
    const DESCRIPTION: Description;

    /// Reads the table. For a refused value stands its default; `None` when a required key is missing or was refused.
    /// What is wrong is in `mistakes`.
    fn read_table(table: toml::Table, at: &str, mistakes: &mut Mistakes) -> Option<Self>;

    /// The table with every default filled in.
    fn write_table(&self) -> toml::Table;

    /// Reads a table from TOML text.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    fn from_toml(text: &str) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let read = parse(text, &mut mistakes).and_then(|table| Self::read_table(table, "", &mut mistakes));
        match read {
            Some(table) if mistakes.is_empty() => Ok(table),
            _ => Err(mistakes),
        }
    }
}

/// Parses TOML text; `None` after writing every syntax error into `mistakes`.
pub fn parse(text: &str, mistakes: &mut Mistakes) -> Option<toml::Table> {
    let (_, errors) = toml::de::DeTable::parse_recoverable(text);
    for error in &errors {
        mistakes.syntax(text, error);
    }
    if !errors.is_empty() {
        return None;
    }
    text.parse().map_err(|error| mistakes.syntax(text, &error)).ok()
}

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
            const DESCRIPTION: $crate::options::Description = $crate::options::Description {
                doc: concat!($($table_doc, "\n"),*),
                fields: &[ $( $crate::options::Field {
                    name: stringify!($field),
                    doc: concat!($($doc, "\n"),*),
                    default: || {
                        let default: Option<$type> = $crate::options!(@default $type $(, $default)?);
                        default.as_ref().and_then(<$type as $crate::options::Value>::write).map(|v| v.to_string())
                    },
                    required: $crate::options!(@required $($default)?)
                        && matches!(<$type as $crate::options::Value>::SHAPE, $crate::options::Shape::Plain),
                    accepted: <$type as $crate::options::Value>::accepted,
                    shape: <$type as $crate::options::Value>::SHAPE,
                } ),* ],
            };

            fn read_table(mut table: toml::Table, at: &str, mistakes: &mut $crate::options::Mistakes) -> Option<Self> {
                $( let $field: Option<$type> = {
                    let place = $crate::options::key(at, stringify!($field));
                    let found = table.remove(stringify!($field));
                    found
                        .and_then(|found| <$type as $crate::options::Value>::read(found, &place, mistakes))
                        .or_else(|| $crate::options!(@default $type $(, $default)?))
                        // After a refusal what this misses is not told: `Mistakes` was told about the key.
                        .or_else(|| <$type as $crate::options::Value>::absent(&place, mistakes))
                }; )*
                for unknown in table.keys() {
                    mistakes.unknown(at, unknown, Self::DESCRIPTION.fields);
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
            const SHAPE: $crate::options::Shape =
                $crate::options::Shape::Table(&<Self as $crate::options::Table>::DESCRIPTION);
            // A table that is not there is an empty one: its defaults hold, and its required keys are missed by name.
            fn absent(at: &str, mistakes: &mut $crate::options::Mistakes) -> Option<Self> {
                <Self as $crate::options::Table>::read_table(toml::Table::new(), at, mistakes)
            }
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
