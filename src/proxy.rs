//! The pipeline between the edge and everything that has bytes.

pub mod answer;
pub mod options;
pub mod request;

pub use options::Options;
