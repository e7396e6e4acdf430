//! A service manager: opens sockets, keeps them, and starts programs with them as systemd does for `.socket` units.

use super::snowbank::{Setup, Snowbank};
use command_fds::{CommandFdExt as _, FdMapping};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

/// The sockets, in the order in which they are given, with their names.
#[derive(Default)]
pub struct Manager(Vec<(String, OwnedFd)>);

impl Manager {
    /// Keeps whatever it is.
    pub fn keep(&mut self, name: &str, socket: impl Into<OwnedFd>) {
        self.0.push((name.to_owned(), socket.into()));
    }

    /// Listens on a free port of this address.
    pub fn listen(&mut self, name: &str, address: &str) -> SocketAddr {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("an address");
        self.keep(name, listener);
        address
    }

    /// Listens on a unix socket.
    pub fn listen_unix(&mut self, name: &str, path: &Path) {
        self.keep(name, UnixListener::bind(path).expect("a path"));
    }

    /// The program with these arguments and all sockets, not yet started. Its shell becomes the program, and so has the
    /// process id that is told.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = Command::new("sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh", env!("CARGO_BIN_EXE_snowbank")]).args(arguments);
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        let mappings = self.0.iter().zip(3..).map(|((_, socket), child_fd)| FdMapping {
            parent_fd: socket.try_clone().expect("another descriptor"),
            child_fd,
        });
        command.fd_mappings(mappings.collect()).expect("each descriptor once");
        command
    }

    /// Starts the program with this configuration file's text.
    pub fn start(&self, setup: &Setup, config: &str) -> Snowbank {
        let path = setup.home().join("activated.toml");
        std::fs::write(&path, config).expect("a configuration file");
        let arguments = ["serve", "--config", path.to_str().expect("a path of text")];
        Snowbank::run(&mut self.command(&arguments), setup.home())
    }
}

/// The configuration of `setup` with sockets that are given in place of its addresses: `fd:web`, `fd:tls` and `fd:unix`.
pub fn config(setup: &Setup) -> String {
    let unix = format!("unix:{}/http.sock", setup.home().display());
    let text = setup.config().replacen("127.0.0.1:0", "fd:web", 1).replacen("127.0.0.1:0", "fd:tls", 1);
    text.replacen(&unix, "fd:unix", 1)
}
