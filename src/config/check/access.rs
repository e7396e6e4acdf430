//! Whether the `[[access]]` tables, the private upstreams and the listeners go together.

use std::collections::{HashMap, HashSet};

use super::{Config, Places};
use crate::access;
use crate::edge::{Listen, Serves};
use crate::options::Mistakes;
use crate::tls::ClientAuth;

/// Checks what is said of access. Whatever would be open to more clients, or to fewer, than it looks is a mistake.
pub(super) fn check(config: &Config, places: &Places, mistakes: &mut Mistakes) {
    let at = format!("{}access", places.file);
    for (n, table) in config.access.iter().enumerate() {
        table.check(&format!("{at}[{n}]"), mistakes);
    }
    listeners(config, places, mistakes);
    if mistakes.is_about(&places.upstream) || mistakes.is_about(&at) {
        return;
    }
    granted(config, &at, mistakes);
    private(config, &at, places, mistakes);
    if !mistakes.is_about(&places.listen) {
        conditions(config, &at, mistakes);
    }
}

/// Names of listeners, and those that serve nobody.
fn listeners(config: &Config, places: &Places, mistakes: &mut Mistakes) {
    let mut named: HashMap<&str, usize> = HashMap::new();
    for (n, listen) in config.listen.iter().enumerate() {
        let key = |field: &str| format!("{}[{n}].{field}", places.listen);
        if let Some(name) = &listen.name {
            match named.get(name.as_str()) {
                Some(first) => {
                    let accepted = format!("a name that is not that of {}[{first}]", places.mentioned(&places.listen));
                    mistakes.refuse(&key("name"), &format!("{name:?}"), &accepted);
                }
                None => _ = named.insert(name, n),
            }
        }
        if listen.serves == Serves::Granted && config.access.is_empty() {
            let accepted = "\"everyone\": there is no [[access]] table, so that nobody would be served";
            mistakes.refuse(&key("serves"), &format!("\"{}\"", listen.serves), accepted);
        }
    }
}

/// Each upstream that is granted has to be there, and private.
fn granted(config: &Config, at: &str, mistakes: &mut Mistakes) {
    for (n, table) in config.access.iter().enumerate() {
        for (m, name) in table.upstreams.iter().enumerate() {
            let accepted = match config.upstream.iter().find(|upstream| upstream.display_name() == *name) {
                Some(upstream) if upstream.private => continue,
                Some(_) => "a private upstream; everybody may see this one, unless `private = true` is added to it",
                None => "the name of an upstream",
            };
            mistakes.refuse(&format!("{at}[{n}].upstreams[{m}]"), &format!("{name:?}"), accepted);
        }
    }
}

/// Each private upstream has to be granted to somebody.
fn private(config: &Config, at: &str, places: &Places, mistakes: &mut Mistakes) {
    let private = config.upstream.iter().enumerate().filter(|(_, upstream)| upstream.private);
    for (count, (n, upstream)) in private.enumerate() {
        let key = format!("{}[{n}].private", places.upstream);
        if count >= access::MOST {
            mistakes.refuse(&key, &"true", &format!("\"false\": there are {} private upstreams already", access::MOST));
        }
        let name = upstream.display_name();
        if !config.access.iter().any(|table| table.upstreams.contains(&name)) {
            let accepted = format!(
                "\"false\", or a table in {} with upstreams = [{name:?}]: nobody may see it",
                places.mentioned(at)
            );
            mistakes.refuse(&key, &"true", &accepted);
        }
    }
}

/// Each condition has to be one that can hold.
fn conditions(config: &Config, at: &str, mistakes: &mut Mistakes) {
    let asks = config.listen.iter().any(|listen| listen.client_certificates != ClientAuth::Off);
    for (n, table) in config.access.iter().enumerate() {
        for (m, name) in table.listeners.iter().enumerate() {
            if !config.listen.iter().any(|listen| listen.name.as_ref() == Some(name)) {
                let key = format!("{at}[{n}].listeners[{m}]");
                mistakes.refuse(&key, &format!("{name:?}"), "the `name` of a listener");
            }
        }
        if !table.certificates.is_empty() {
            let asked = |listen: &&Listen| {
                let is_meant = listen.name.as_ref().is_some_and(|name| table.listeners.contains(name));
                listen.client_certificates != ClientAuth::Off && (table.listeners.is_empty() || is_meant)
            };
            let authorities: HashSet<_> =
                config.listen.iter().filter(asked).map(|listen| &listen.client_ca_file).collect();
            if authorities.len() > 1 {
                let why = "these names count at listeners with different client_ca_file, whose CAs could each sign them: add \
                           `listeners`, and a table for each CA";
                mistakes.say(&format!("{at}[{n}].certificates"), why);
            }
        }
        if let (Some(name), false) = (table.certificates.first(), asks) {
            let accepted = "nothing, because no listener asks for client_certificates";
            mistakes.refuse(&format!("{at}[{n}].certificates"), &format!("[\"{name}\"…]"), accepted);
        }
    }
}
