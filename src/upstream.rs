//! The caches that are asked for what is not here.

pub mod options;
mod url;

pub use options::Options;
