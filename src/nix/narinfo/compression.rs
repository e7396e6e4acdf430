//! The compressions that a narinfo can name.

use std::fmt;

/// How a NAR is compressed at its URL: every name that Nix knows (`src/libutil/compression.cc`). That a name is known
/// does not mean that this program can decompress it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is the compression of that name
pub enum Compression {
    None,
    Br,
    Bzip2,
    Compress,
    Grzip,
    Gzip,
    Lrzip,
    Lz4,
    Lzip,
    Lzma,
    Lzop,
    Xz,
    Zstd,
}

impl Compression {
    /// Every compression.
    pub const ALL: [Self; 13] = [
        Self::None,
        Self::Br,
        Self::Bzip2,
        Self::Compress,
        Self::Grzip,
        Self::Gzip,
        Self::Lrzip,
        Self::Lz4,
        Self::Lzip,
        Self::Lzma,
        Self::Lzop,
        Self::Xz,
        Self::Zstd,
    ];

    /// The compression of this name. The empty name, which stands for bzip2 in a narinfo, is not one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| compression.name() == name)
    }

    /// Its name in a narinfo.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Br => "br",
            Self::Bzip2 => "bzip2",
            Self::Compress => "compress",
            Self::Grzip => "grzip",
            Self::Gzip => "gzip",
            Self::Lrzip => "lrzip",
            Self::Lz4 => "lz4",
            Self::Lzip => "lzip",
            Self::Lzma => "lzma",
            Self::Lzop => "lzop",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// What follows `.nar` in a file name, with its dot; empty for none. Nix writes `.br`, `.bz2`, `.lz4`, `.lzip`, `.xz`
    /// and `.zst` and leaves the others without; here each has its own, so that a file name tells the compression.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Br => ".br",
            Self::Bzip2 => ".bz2",
            Self::Compress => ".Z",
            Self::Grzip => ".grz",
            Self::Gzip => ".gz",
            Self::Lrzip => ".lrz",
            Self::Lz4 => ".lz4",
            Self::Lzip => ".lzip",
            Self::Lzma => ".lzma",
            Self::Lzop => ".lzo",
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
        }
    }

    /// The compression with this [`extension`](Self::extension).
    pub fn from_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| compression.extension() == extension)
    }
}

/// Its name.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_extensions_lead_back_to_the_compression() {
        for compression in Compression::ALL {
            assert_eq!(Compression::parse(&compression.to_string()), Some(compression));
            assert_eq!(Compression::from_extension(compression.extension()), Some(compression));
        }
    }

    #[test]
    fn other_names_are_none_of_them() {
        for name in ["", "XZ", "zst", "xz ", "identity"] {
            assert_eq!(Compression::parse(name), None, "{name:?}");
        }
        assert_eq!(Compression::from_extension("xz"), None);
    }
}
