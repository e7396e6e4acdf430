//! Addresses that are sockets of whoever started the program: whether they were given.

use crate::admin;
use crate::config::Config;
use crate::config::flags::Places;
use crate::edge::ListenAddress;
use crate::inherited::{Inherited, SocketName};
use crate::options::Mistakes;

/// Looks for every socket that the configuration names among those that were `given`.
pub(in crate::config) fn check(config: &Config, given: &Inherited, places: &Places, mistakes: &mut Mistakes) {
    for (n, listen) in config.listen.iter().enumerate() {
        if let ListenAddress::Inherited(name) = &listen.address {
            look(name, given, &format!("{}[{n}].address", places.listen), mistakes);
        }
    }
    if let Some(admin::Address::Inherited(name)) = &config.admin.address {
        look(name, given, &format!("{}admin.address", places.file), mistakes);
    }
}

fn look(name: &SocketName, given: &Inherited, key: &str, mistakes: &mut Mistakes) {
    if let Err(expected) = given.check(name) {
        mistakes.refuse(key, &format!("\"{name}\""), &expected);
    }
}
