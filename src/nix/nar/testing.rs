//! NARs for the tests of other rooms.

/// The NAR of a file with these contents.
pub(crate) fn file_nar(contents: &[u8]) -> Vec<u8> {
    let mut nar = Vec::new();
    for token in [b"nix-archive-1", &b"("[..], b"type", b"regular", b"contents", contents, b")"] {
        nar.extend_from_slice(&(token.len() as u64).to_le_bytes());
        nar.extend_from_slice(token);
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}
