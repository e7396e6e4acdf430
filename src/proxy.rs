//! The pipeline between the edge and everything that has bytes.

pub mod answer;
pub mod request;
