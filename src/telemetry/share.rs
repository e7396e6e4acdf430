//! A share of many: 0 for none, 1 for all.

use crate::options::{Mistakes, Value};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(f64);

impl Share {
    /// Each one.
    pub const ALL: Self = Self(1.0);

    /// Whether one is among them; `random` is a number of its own, any one as likely as any other.
    pub fn takes(self, random: u64) -> bool {
        const STEPS: f64 = (1u64 << 53) as f64; // what an f64 holds exactly
        ((random >> 11) as f64) < self.0 * STEPS
    }
}

impl Value for Share {
    fn read(found: toml::Value, at: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let number = match found {
            toml::Value::Float(number) => Some(number),
            toml::Value::Integer(0) => Some(0.0),
            toml::Value::Integer(1) => Some(1.0),
            _ => None,
        };
        let share = number.filter(|number| (0.0..=1.0).contains(number)).map(Self);
        if share.is_none() {
            mistakes.refuse(at, &found, &Self::accepted());
        }
        share
    }
    fn write(&self) -> Option<toml::Value> {
        Some(toml::Value::Float(self.0))
    }
    fn accepted() -> String {
        "a number from 0 to 1, such as 0.01".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Share> {
        let table: toml::Table = format!("share = {text}").parse().unwrap();
        Share::read(table["share"].clone(), "share", &mut Mistakes::default())
    }

    #[test]
    fn a_share_is_a_number_from_0_to_1() {
        for (text, share) in [("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("1e-3", 0.001)] {
            assert_eq!(read(text), Some(Share(share)));
        }
        for text in ["2", "-0.1", "1.01", "nan", "inf", "'0.5'", "true"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn so_many_are_among_them() {
        let step = u64::MAX / 1000;
        for (share, most) in [(0.0, 0), (0.1, 100), (0.999, 999), (1.0, 1001)] {
            let taken = (0..=1000).filter(|n| Share(share).takes(n * step)).count();
            assert!(taken.abs_diff(most) <= 1, "{share}: {taken}");
        }
        assert!(Share::ALL.takes(u64::MAX) && !Share(0.0).takes(0));
    }
}
