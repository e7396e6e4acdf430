//! Why a body gives no NAR.

use crate::nix::excerpt::Excerpt;
use crate::nix::narinfo::Compression;

/// What is wrong with a compressed body. The upstream's fault, all of them, but for [`Error::Input`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no decoder for it here.
    #[error("{0}: not supported")]
    Unsupported(Compression),
    /// The input ends before the stream does.
    #[error("{0}: cut")]
    Cut(Compression),
    /// The input is no stream of this compression, or goes on after its end; what the decoder said.
    #[error("{0}: damaged ({1})")]
    Damaged(Compression, Excerpt),
    /// The stream asks for a larger window than there is memory for, which is told in bytes; or than is ever accepted.
    #[error("{0}: wants more memory than {1} bytes")]
    Memory(Compression, u64),
    /// Reading went on after the input itself had failed.
    #[error("{0}: the input failed before")]
    Input(Compression),
}
