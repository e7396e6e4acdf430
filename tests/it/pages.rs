//! Pages for people: what `/` says to anybody, what operators see, and that neither says too much.

mod commands;
mod lines;
mod public;
mod seen;

use crate::support::cache::{Key, Object};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};
use serde_json::Value;

const MB: usize = 1_000_000;

/// The document of the admin address.
fn status(snowbank: &Snowbank) -> Value {
    let (status, body) = snowbank.operator("GET", "/status", "");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// The setting of a program in front of an origin called `one` that stops in the middle of a NAR of 8 MB, at `gate`.
struct Halfway {
    origin: Origin,
    setup: Setup,
    object: Object,
    gate: Gate,
}

impl Halfway {
    fn new(name: &str) -> Self {
        let (origin, key) = (Origin::start(), Key::new("pages-1"));
        let (object, gate) = (Object::new(name, 8 * MB), Gate::new());
        origin.publish_narinfo(&object, &key);
        origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(2 * MB as u64, &gate));
        let setup =
            Setup::new().upstream_with(&origin.url(), &format!("name = \"one\"\npublic_keys = [{:?}]", key.public()));
        Self { origin, setup, object, gate }
    }

    /// What stands in the list of what is being fetched.
    fn what(&self) -> String {
        self.object.base_name.clone()
    }
}
