//! What a service manager is told over its socket.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::support::snowbank::{Setup, Snowbank};

/// A socket as systemd gives one.
struct Manager(UnixDatagram);

impl Manager {
    /// What was told next.
    #[track_caller]
    fn told(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("something is told");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// The same without signs of life.
    #[track_caller]
    fn told_of_change(&self) -> String {
        loop {
            let told = self.told();
            if told.trim() != "WATCHDOG=1" {
                return told;
            }
        }
    }
}

#[test]
fn it_is_told_of_readiness_life_reloads_and_the_end() {
    let setup = Setup::new();
    let path = setup.home().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).expect("a socket"));
    manager.0.set_read_timeout(Some(Duration::from_secs(20))).expect("an option");
    let config = setup.write();
    let environment =
        [("NOTIFY_SOCKET".to_owned(), path.display().to_string()), ("WATCHDOG_USEC".to_owned(), "200000".to_owned())];
    let arguments = ["serve", "--config", config.to_str().expect("a path of text")];
    let snowbank = Snowbank::spawn(&[], &arguments, &environment, setup.home());
    let told = manager.told_of_change();
    assert!(told.lines().any(|line| line == "READY=1"), "{told}");
    let life = (0..3).map(|_| manager.told()).collect::<Vec<_>>();
    assert!(life.iter().all(|told| told.trim() == "WATCHDOG=1"), "{life:?}");
    snowbank.hang_up();
    let told = manager.told_of_change();
    assert!(told.contains("RELOADING=1\n") && told.contains("MONOTONIC_USEC="), "{told}");
    let told = manager.told_of_change();
    assert!(told.contains("READY=1"), "{told}");
    snowbank.ask_to_stop();
    let told = manager.told_of_change();
    assert!(told.contains("STOPPING=1"), "{told}");
    assert!(snowbank.stop().success());
}
