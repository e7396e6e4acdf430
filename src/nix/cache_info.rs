//! `nix-cache-info`: what a binary cache says about itself.
//!
//! Reading is as lax as Nix's (`src/libstore/binary-cache-store.cc`): blanks around values go, unknown keys and lines
//! without a colon are skipped, the last of two equal keys wins. Nothing in here is worth refusing an upstream for but a
//! store directory or priority that cannot be read.

use super::excerpt::Excerpt;
use super::store_path::{self, StoreDir};

/// Where a cache has it, below its URL.
pub const NAME: &str = "nix-cache-info";
/// The longest text read, in bytes.
pub const MAX_LEN: usize = 64 * 1024;

/// Why a text is no `nix-cache-info`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than [`MAX_LEN`].
    #[error("{0} bytes are too many for a nix-cache-info, the most is {MAX_LEN}")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("not UTF-8 text")]
    NotText,
    /// The store directory is none.
    #[error("StoreDir: {0}")]
    StoreDir(store_path::Error),
    /// The priority is no number.
    #[error("Priority: expected a decimal number of at most {max}, found {0}", max = u32::MAX)]
    Priority(Excerpt),
}

/// What a binary cache says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheInfo {
    /// The store directory that its paths lie in; a client with another one refuses the cache.
    pub store_dir: StoreDir,
    /// Whether clients may ask for many narinfos at once; `nix-env -q` and `nix-build` skip the cache otherwise.
    pub want_mass_query: bool,
    /// Caches with a lower priority are asked first.
    pub priority: u32,
}

impl CacheInfo {
    /// Reads the text. What it does not say is as Nix assumes it: the usual store directory, no mass query, priority 0.
    ///
    /// # Errors
    /// When the text is too long, not UTF-8, or one of its values cannot be read.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > MAX_LEN {
            return Err(Error::TooLong(text.len()));
        }
        let text = std::str::from_utf8(text).map_err(|_| Error::NotText)?;
        let mut info = Self { store_dir: StoreDir::default(), want_mass_query: false, priority: 0 };
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match key {
                "StoreDir" => info.store_dir = StoreDir::parse(value).map_err(Error::StoreDir)?,
                "WantMassQuery" => info.want_mass_query = value == "1",
                "Priority" => info.priority = parse_priority(value)?,
                _ => {}
            }
        }
        Ok(info)
    }

    /// Writes it as Nix does, one line per value.
    pub fn render(&self) -> String {
        let want_mass_query = u8::from(self.want_mass_query);
        format!("StoreDir: {}\nWantMassQuery: {want_mass_query}\nPriority: {}\n", self.store_dir, self.priority)
    }
}

fn parse_priority(value: &str) -> Result<u32, Error> {
    let plain = value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|_| plain).ok_or_else(|| Error::Priority(Excerpt::of(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_nix_serve_and_cache_nixos_org_send() {
        let info = CacheInfo::parse(b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n").unwrap();
        assert_eq!(info, CacheInfo { store_dir: StoreDir::default(), want_mass_query: true, priority: 30 });
        assert_eq!(info.render(), "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
    }

    #[test]
    fn what_is_missing_is_as_nix_assumes_it() {
        let assumed = CacheInfo { store_dir: StoreDir::default(), want_mass_query: false, priority: 0 };
        for text in ["", "StoreDir: /nix/store", "WantMassQuery: true\nNo colon here\nUnknown: 1\n"] {
            assert_eq!(CacheInfo::parse(text.as_bytes()).unwrap(), assumed, "{text:?}");
        }
    }

    #[test]
    fn blanks_around_values_go() {
        let info = CacheInfo::parse(b"StoreDir:/srv/store  \r\nPriority:\t7\r\n").unwrap();
        assert_eq!((info.store_dir.as_str(), info.priority), ("/srv/store", 7));
    }

    #[test]
    fn values_that_cannot_be_read_are_refused() {
        for text in [
            "StoreDir: nix",
            "StoreDir:",
            "Priority: -1",
            "Priority: +1",
            "Priority: x",
            "Priority:",
            "Priority: 4294967296",
        ] {
            assert!(CacheInfo::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(CacheInfo::parse(b"\xff"), Err(Error::NotText));
        assert!(CacheInfo::parse(&vec![b'\n'; 65_536]).is_ok(), "64 KiB");
        assert_eq!(CacheInfo::parse(&vec![b'\n'; 65_537]), Err(Error::TooLong(65_537)));
        assert_eq!(
            CacheInfo::parse(b"Priority: high").unwrap_err().to_string(),
            "Priority: expected a decimal number of at most 4294967295, found `high`"
        );
    }

    #[test]
    fn parse_undoes_render() {
        for (dir, want_mass_query, priority) in [("/nix/store", true, 40), ("/srv/store", false, u32::MAX)] {
            let info = CacheInfo { store_dir: StoreDir::parse(dir).unwrap(), want_mass_query, priority };
            assert_eq!(CacheInfo::parse(info.render().as_bytes()), Ok(info));
        }
    }
}
