//! What readers promise for any bytes, as a check that panics when the promise is broken. Compiled for tests and fuzzing
//! only.

use std::io::{BufRead, BufReader, Read};

use super::{reader, supports};
use crate::nix::narinfo::Compression;

/// No more is read than this: what follows would be more of the same, and bzip2 under a sanitizer on a busy machine needs
/// half a second for it.
const MOST: usize = 4 << 20;
/// The comparison of two ways to read stops here, to be quick.
const COMPARED: usize = 1 << 18;
const MEMORY: u64 = 32 << 20;

/// The first byte picks the compression, the rest is the body. Reading ends or goes on within its memory, what is over
/// stays over, and neither verdict nor bytes depend on the pieces in which the input comes or the output is asked for.
///
/// # Panics
/// When that does not hold for `bytes`.
pub fn fuzz(bytes: &[u8]) {
    let Some((&pick, body)) = bytes.split_first() else { return };
    let compression = Compression::ALL[usize::from(pick) % Compression::ALL.len()];
    if !supports(compression) {
        assert!(reader(compression, body, MEMORY).is_err());
        return;
    }
    let whole = read(compression, body, 64 << 10, MOST);
    let pieces = read(compression, BufReader::with_capacity(1 + usize::from(pick) / 13, body), 1000, COMPARED);
    let shared = whole.bytes.len().min(pieces.bytes.len());
    if whole.verdict == Some(true) || pieces.verdict == Some(true) {
        assert_eq!(whole.bytes[..shared], pieces.bytes[..shared]);
    }
    if whole.bytes.len() < COMPARED && pieces.bytes.len() < COMPARED {
        assert_eq!(whole.verdict, pieces.verdict);
    }
}

/// What came of reading.
struct Outcome {
    bytes: Vec<u8>,
    /// Whether it ended well; none when it was stopped.
    verdict: Option<bool>,
}

fn read(compression: Compression, input: impl BufRead, step: usize, most: usize) -> Outcome {
    let mut bytes = Vec::new();
    let mut piece = vec![0; step];
    #[allow(clippy::expect_used)] // the law
    let mut reader = reader(compression, input, MEMORY).expect("supported, and there is memory");
    while bytes.len() < most {
        match reader.read(&mut piece) {
            Ok(0) => {
                assert_eq!(reader.read(&mut piece).ok(), Some(0), "the end is final");
                return Outcome { bytes, verdict: Some(true) };
            }
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
            Err(error) => {
                assert!(!error.to_string().contains(char::is_control), "{error}");
                assert!(reader.read(&mut piece).is_err(), "a failure is final");
                return Outcome { bytes, verdict: Some(false) };
            }
        }
    }
    Outcome { bytes, verdict: None }
}
