//! The kinds of value an option can have.

use std::path::PathBuf;
use std::time::Duration;

use super::{Mistakes, Shape};

/// A type that can stand on the right of `key =`.
pub trait Value: Sized {
    /// How it is laid out in the file.
    const SHAPE: Shape = Shape::Plain;

    /// Reads the value found at `at`; `None` after writing into `mistakes` why it is refused.
    fn read(found: toml::Value, at: &str, mistakes: &mut Mistakes) -> Option<Self>;

    /// What holds when the key `at` is not given and has no default: usually nothing, which is a mistake.
    fn absent(at: &str, mistakes: &mut Mistakes) -> Option<Self> {
        mistakes.missing(at, &Self::accepted());
        None
    }

    /// The value as TOML; `None` when there is nothing to write (an option that is not set).
    fn write(&self) -> Option<toml::Value>;

    /// What is accepted, in words that end a sentence: "a size such as \"200 GiB\"".
    fn accepted() -> String;
}

/// Declares a [`Value`] that is written as one string, parsed by `FromStr` and shown by `Display`: how it is described.
#[macro_export]
macro_rules! string_value {
    ($type:ty, $accepted:expr) => {
        impl $crate::options::Value for $type {
            fn read(found: toml::Value, at: &str, mistakes: &mut $crate::options::Mistakes) -> Option<Self> {
                match &found {
                    toml::Value::String(text) => match text.parse() {
                        Ok(value) => Some(value),
                        Err(_) => {
                            mistakes.refuse(at, &found, &<Self as $crate::options::Value>::accepted());
                            None
                        }
                    },
                    other => {
                        mistakes.refuse(at, other, &<Self as $crate::options::Value>::accepted());
                        None
                    }
                }
            }
            fn write(&self) -> Option<toml::Value> {
                Some(toml::Value::String(self.to_string()))
            }
            fn accepted() -> String {
                String::from($accepted)
            }
        }
    };
}

impl Value for bool {
    fn read(found: toml::Value, at: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let value = found.as_bool();
        if value.is_none() {
            mistakes.refuse(at, &found, &Self::accepted());
        }
        value
    }
    fn write(&self) -> Option<toml::Value> {
        Some(toml::Value::Boolean(*self))
    }
    fn accepted() -> String {
        "true or false".to_owned()
    }
}

macro_rules! integer_value {
    ($($type:ty),*) => { $(
        impl Value for $type {
            fn read(found: toml::Value, at: &str, mistakes: &mut Mistakes) -> Option<Self> {
                let value = found.as_integer().and_then(|n| <$type>::try_from(n).ok());
                if value.is_none() {
                    mistakes.refuse(at, &found, &Self::accepted());
                }
                value
            }
            fn write(&self) -> Option<toml::Value> {
                i64::try_from(*self).ok().map(toml::Value::Integer)
            }
            fn accepted() -> String {
                match i64::try_from(<$type>::MAX) {
                    Ok(max) => format!("a whole number from {} to {max}", <$type>::MIN),
                    // TOML has no greater numbers than the type, so that there is no limit to speak of.
                    Err(_) => format!("a whole number, {} or more", <$type>::MIN),
                }
            }
        }
    )* };
}
integer_value!(u16, u32, u64, usize, i32);

string_value!(String, "a string");

impl Value for PathBuf {
    fn read(found: toml::Value, at: &str, mistakes: &mut Mistakes) -> Option<Self> {
        match &found {
            toml::Value::String(text) if !text.is_empty() => Some(PathBuf::from(text)),
            other => {
                mistakes.refuse(at, other, &Self::accepted());
                None
            }
        }
    }
    fn write(&self) -> Option<toml::Value> {
        Some(toml::Value::String(self.display().to_string()))
    }
    fn accepted() -> String {
        "a path".to_owned()
    }
}

impl<T: Value> Value for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    fn read(found: toml::Value, at: &str, mistakes: &mut Mistakes) -> Option<Self> {
        T::read(found, at, mistakes).map(Some)
    }
    fn write(&self) -> Option<toml::Value> {
        self.as_ref().and_then(T::write)
    }
    fn accepted() -> String {
        T::accepted()
    }
}

impl<T: Value> Value for Vec<T> {
    const SHAPE: Shape = match T::SHAPE {
        Shape::Table(description) | Shape::Tables(description) => Shape::Tables(description),
        Shape::Plain => Shape::Plain,
    };
    fn read(found: toml::Value, at: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let toml::Value::Array(found) = found else {
            mistakes.refuse(at, &found, &Self::accepted());
            return None;
        };
        // Every element is read before the first refusal counts, so that all mistakes are told at once.
        let read: Vec<Option<T>> =
            found.into_iter().enumerate().map(|(n, v)| T::read(v, &format!("{at}[{n}]"), mistakes)).collect();
        read.into_iter().collect()
    }
    fn write(&self) -> Option<toml::Value> {
        Some(toml::Value::Array(self.iter().filter_map(T::write).collect()))
    }
    fn accepted() -> String {
        format!("a list, each {}", T::accepted())
    }
}

/// A number of bytes, written `"200 GiB"`, `"64MiB"`, `"1.5 TB"` or as a plain number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl std::str::FromStr for ByteSize {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(Self(parse_quantity(text, &SIZE_UNITS)?))
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_quantity(f, self.0, &SIZE_UNITS)
    }
}

string_value!(ByteSize, "a size such as \"200 GiB\", \"64 MiB\" or \"500 GB\"");

/// A length of time, written `"2 s"`, `"500 ms"`, `"30 days"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
    /// So many milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

/// Units in milliseconds. Of several names of one length the first is written, for a single one the second.
const TIME_UNITS: [(&str, u64); 9] = [
    ("days", 86_400_000),
    ("day", 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("minutes", 60_000),
    ("min", 60_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

impl std::str::FromStr for Period {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(Self(Duration::from_millis(parse_quantity(text, &TIME_UNITS)?)))
    }
}

impl std::fmt::Display for Period {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_quantity(f, u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), &TIME_UNITS)
    }
}

string_value!(Period, "a time such as \"2 s\", \"500 ms\" or \"30 days\"");

/// `number unit`, the number with at most three decimals, computed in integers so that nothing is lost.
fn parse_quantity(text: &str, units: &[(&str, u64)]) -> Result<u64, ()> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    let scale = units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale).ok_or(())?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 3 || fraction.contains('.') {
        return Err(());
    }
    let whole: u64 = whole.parse().map_err(|_| ())?;
    let thousandths: u64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<3}").parse().map_err(|_| ())? };
    let part = u128::from(scale) * u128::from(thousandths) / 1000;
    let total = u128::from(scale) * u128::from(whole) + part;
    u64::try_from(total).map_err(|_| ())
}

fn write_quantity(f: &mut std::fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> std::fmt::Result {
    let fitting = units.iter().filter(|(_, scale)| value.is_multiple_of(*scale)).max_by_key(|(_, scale)| *scale);
    match fitting {
        Some((unit, scale)) if value > 0 => {
            let count = value / scale;
            let names = || units.iter().filter(|(_, s)| s == scale).map(|(name, _)| *name);
            let unit = if count == 1 { names().nth(1) } else { None }.or_else(|| names().next()).unwrap_or(unit);
            write!(f, "{count} {unit}")
        }
        _ => write!(f, "0 {}", units.last().map_or("", |(name, _)| name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [("200 GiB", 200 << 30), ("64MiB", 64 << 20), ("1.5 kB", 1500), ("0 B", 0), ("7 B", 7)] {
            assert_eq!(text.parse::<ByteSize>().map(|s| s.0), Ok(bytes), "{text}");
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
        for text in ["", "GiB", "1", "1 gib", "-1 B", "1.2345 kB", "99999999999 TiB", "1..2 B"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn periods_are_read_and_written() {
        for (text, millis) in [("2 s", 2000), ("500ms", 500), ("30 days", 2_592_000_000), ("1 day", 86_400_000)] {
            assert_eq!(text.parse::<Period>(), Ok(Period::millis(millis)), "{text}");
            assert_eq!(Period::millis(millis).to_string().parse(), Ok(Period::millis(millis)));
        }
        for (text, written) in
            [("24 h", "1 day"), ("48 h", "2 days"), ("60 s", "1 min"), ("300 s", "5 minutes"), ("0 d", "0 ms")]
        {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), written);
        }
        assert!("1 fortnight".parse::<Period>().is_err());
    }
}
