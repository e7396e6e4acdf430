//! The ways by which a machine comes to a cache.

use crate::bench::Bench;
use crate::load::nix::MEMORY;
use crate::peers::{Kind, Server, Setup, Tiers};
use crate::rounds::Contender;
use std::path::Path;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Through snowbank, as it comes.
    Ahead,
    /// Through snowbank that fetches nothing before it is asked for.
    NoneAhead,
    Nginx,
    /// Straight from the upstream.
    Direct,
}

/// All, with the one last that has no server of which anything could be told.
pub const ALL: [Way; 4] = [Way::Ahead, Way::NoneAhead, Way::Nginx, Way::Direct];

impl Contender for Way {
    fn name(&self) -> &'static str {
        match self {
            Self::Ahead => Kind::Snowbank.name(),
            Self::NoneAhead => "snowbank, none ahead",
            Self::Nginx => Kind::Nginx.name(),
            Self::Direct => "direct",
        }
    }
}

impl Way {
    /// The server in it, with nothing cached.
    pub fn start(self, bench: &Bench) -> Option<Server> {
        let kind = match self {
            Self::Ahead | Self::NoneAhead => Kind::Snowbank,
            Self::Nginx => Kind::Nginx,
            Self::Direct => return None,
        };
        let tiers = Tiers { memory: 256 << 20, disk: disk(bench) };
        let setup = Setup { tiers, ahead: self == Self::Ahead, within: Path::new(MEMORY) };
        Some(Server::start_as(bench, kind, setup))
    }
}

fn disk(bench: &Bench) -> u64 {
    bench.options.size(2 << 30, 256 << 20)
}

/// What may be fetched ahead for one network and not be asked for: as README.md has it.
pub fn budget(bench: &Bench) -> u64 {
    (256 << 20).min(disk(bench) / 8)
}

/// Where a client asks.
pub fn url(bench: &Bench, server: Option<&Server>) -> String {
    let port = server.map_or(bench.origin.port(), |server| server.plain);
    format!("http://127.0.0.1:{port}")
}
