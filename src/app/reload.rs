//! Reading the configuration again while clients are served.
//!
//! Everything is read and checked first; with one mistake nothing changes (R34). What can change while the program runs
//! is the policy (the upstreams, the keys, the cache), replaced as a whole, so that each request sees one of the two, the limits
//! of each client, and the certificates. An upstream whose options did not change stays, with its connections. The rest of the file is told to need
//! a restart (see `effect`).

use std::sync::Arc;

use super::{Config, Origin, Proxy, effect};
use crate::access::Access;
use crate::edge::{Clients, Listen};
use crate::library;
use crate::metrics::{Metrics, ReloadEnd};
use crate::nix::signature::PublicKey;
use crate::proxy::Policies;
use crate::proxy::sign::Signer;
use crate::tls::Certificates;
use crate::upstream::{self, LIBRARY, Upstream};

/// Reloads, one after the other.
pub(super) struct Reloads {
    /// What the program was started with: what needs a restart is held against it.
    started_with: Config,
    /// The upstreams in force.
    upstreams: Vec<upstream::Options>,
    origin: Arc<Origin>,
    proxy: Proxy,
    certificates: Option<Certificates>,
    limits: Clients,
    metrics: Metrics,
}

impl Reloads {
    pub(super) fn new(
        started_with: Config,
        origin: Arc<Origin>,
        proxy: Proxy,
        certificates: Option<Certificates>,
        limits: Clients,
        metrics: Metrics,
    ) -> Self {
        let upstreams = started_with.upstream.clone();
        Self { started_with, upstreams, origin, proxy, certificates, limits, metrics }
    }

    /// Whether there is anything to read again.
    pub(super) fn are_possible(&self) -> bool {
        self.origin.has_file()
    }

    /// Reads everything again, and puts it in force; the options of which that is not true before the next start.
    ///
    /// # Errors
    /// Every mistake, a line each; then nothing has changed.
    pub(super) async fn reload(&mut self) -> Result<Vec<String>, String> {
        let read = match self.read().await {
            Ok((config, policies)) => self.put_in_force(policies).await.map(|()| config),
            Err(mistakes) => Err(mistakes),
        };
        let end = match &read {
            Ok(_) => ReloadEnd::Applied,
            Err(_) => ReloadEnd::Refused,
        };
        self.metrics.reloads.of(end).inc();
        match read {
            Ok(config) => {
                self.upstreams.clone_from(&config.upstream);
                self.limits.reload(&config.limits);
                self.proxy.bound_waiting(config.limits.waiting());
                let waiting = effect::with_the_next_start(&self.started_with, &config);
                self.reload_certificates(config).await;
                tracing::info!("reloaded: the new configuration is in force");
                if !waiting.is_empty() {
                    let waiting = waiting.join(", ");
                    tracing::warn!("reload: what changed in {waiting} takes effect with the next start only");
                }
                Ok(waiting)
            }
            Err(mistakes) => {
                for mistake in mistakes.lines() {
                    tracing::error!("reload refused, nothing changes: {mistake}");
                }
                Err(mistakes)
            }
        }
    }

    async fn put_in_force(&self, policies: Policies) -> Result<(), String> {
        let proxy = self.proxy.clone();
        let reloaded = tokio::runtime::Handle::current().spawn_blocking(move || proxy.reload(policies));
        reloaded.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        self.proxy.prepare_library();
        Ok(())
    }

    /// The names, the files and the CA; the files of before are looked at too.
    async fn reload_certificates(&self, config: Config) {
        let Some(certificates) = self.certificates.clone() else { return };
        let reloaded =
            tokio::task::spawn_blocking(move || certificates.reload(&config.tls, config.acme_challenge())).await;
        if let Err(error) = reloaded {
            tracing::error!(%error, "the certificates could not be read again");
        }
    }

    async fn read(&self) -> Result<(Config, Policies), String> {
        let (origin, in_force) = (Arc::clone(&self.origin), self.upstreams.clone());
        let loaded = tokio::task::spawn_blocking(move || {
            let config = origin.load_again(&in_force).map_err(|mistakes| mistakes.to_string())?;
            let signer = signer(&config).map_err(|error| error.to_string())?;
            let access = Access::load(&config.access).map_err(|error| error.to_string())?;
            Ok::<_, String>((config, signer, access))
        });
        let (config, signer, access) = loaded.await.map_err(|error| error.to_string())??;
        self.listeners_are_those_of_access(&config)?;
        let upstreams = upstreams(&config, &self.proxy.upstreams(), &signer.public_keys(), &self.metrics)
            .map_err(|error| error.to_string())?;
        let policies = Policies::new(&config.cache, upstreams, signer, access);
        Ok((config, policies))
    }

    /// Who is granted what must not be read from a file whose listeners are not the ones that run: a condition that was
    /// written for a new listener would hold at the old one (R15). So would a network, at one that does not believe yet what a proxy says
    /// of its clients: they would all be in the network of the proxy.
    fn listeners_are_those_of_access(&self, config: &Config) -> Result<(), String> {
        let (now, was) = (&config.listen, &self.started_with.listen);
        let asks = config.access.iter().any(|table| !table.listeners.is_empty() || !table.certificates.is_empty());
        if asks && now != was {
            return Err(
                "[[access]] asks for `listeners` or `certificates`, and [[listen]] is not what this server was \
                         started with: restart it, or leave [[listen]] as it was"
                    .to_owned(),
            );
        }
        let asks = config.access.iter().any(|table| !table.networks.is_empty());
        if asks && !now.iter().map(Listen::whom_it_believes).eq(was.iter().map(Listen::whom_it_believes)) {
            return Err("[[access]] asks for `networks`, and whom [[listen]] believes about its clients' addresses is not what \
                         this server was started with: restart it, or leave [[listen]] as it was"
                .to_owned());
        }
        Ok(())
    }
}

/// What the configuration says about every space, with the tokens read.
pub(super) fn policies(config: &Config, upstreams: Vec<Arc<Upstream>>, signer: Signer) -> anyhow::Result<Policies> {
    let access = Access::load(&config.access)?;
    Ok(Policies::new(&config.cache, upstreams, signer, access))
}

/// Our keys, read and checked.
pub(super) fn signer(config: &Config) -> anyhow::Result<Signer> {
    let keys = config.sign.load().map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", errors.join("; "))
    })?;
    Ok(Signer::new(config.sign.clone(), keys))
}

/// The upstreams of a configuration, the library among them; there our own keys vouch too. Those that are among `running` with
/// the same options stay as they are.
pub(super) fn upstreams(
    config: &Config,
    running: &[Arc<Upstream>],
    own_keys: &[PublicKey],
    metrics: &Metrics,
) -> anyhow::Result<Vec<Arc<Upstream>>> {
    let built = config.upstream.iter().enumerate().map(|(place, options)| {
        let (name, rank) = (options.display_name(), options.rank(place));
        let same = |upstream: &&Arc<Upstream>| {
            !upstream.is_library() && upstream.rank() == rank && upstream.options() == options
        };
        match running.iter().find(same) {
            Some(upstream) => Ok(Arc::clone(upstream)),
            None => Upstream::new(options.clone(), rank, metrics.upstream(&name))
                .map_err(|why| anyhow::anyhow!("upstream {name}: {why}")),
        }
    });
    let library = config.library.as_ref().map(|options| library(config, options, running, own_keys, metrics));
    built.chain(library).collect()
}

fn library(
    config: &Config,
    options: &library::Options,
    running: &[Arc<Upstream>],
    own_keys: &[PublicKey],
    metrics: &Metrics,
) -> anyhow::Result<Arc<Upstream>> {
    let mut keys = config.public_keys();
    keys.extend(own_keys.iter().cloned());
    let wanted = options.as_upstream(keys).map_err(|why| anyhow::anyhow!("{why}"))?;
    let same = |upstream: &&Arc<Upstream>| {
        upstream.is_library() && upstream.is_written() == options.write && *upstream.options() == wanted
    };
    match running.iter().find(same) {
        Some(upstream) => Ok(Arc::clone(upstream)),
        None => Upstream::library(wanted.clone(), options.write, metrics.upstream(LIBRARY))
            .map_err(|why| anyhow::anyhow!("the library: {why}")),
    }
}
