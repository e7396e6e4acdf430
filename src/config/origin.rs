//! Where a configuration comes from, kept so that it can be read again.

use std::path::PathBuf;

use super::{Config, Environment, Flags, LONGEST, check};
use crate::file;
use crate::inherited::Inherited;
use crate::options::Mistakes;
use crate::upstream;

/// A file, flags over it, and the environment that decides what neither says.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// The flags of the command line.
    pub flags: Flags,
    /// What the process was started with.
    pub environment: Environment,
}

impl Origin {
    /// Whether there is a file, which may have changed.
    pub fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Reads and checks the configuration as it is now; see [`Config::load`].
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn load(&self) -> Result<Config, Mistakes> {
        Config::load(self.file.as_deref(), &self.flags, &self.environment)
    }

    /// Reads and checks it once more, while a server runs with the upstreams `in_force`. Nobody is there who would be waited
    /// for, so that only a regular file is read. One that names no upstream any more is taken for a file whose writer was
    /// interrupted, or found the disk full, and not for a wish to have the default, unless that is in force.
    ///
    /// # Errors
    /// As of [`Origin::load`].
    pub fn load_again(&self, in_force: &[upstream::Options]) -> Result<Config, Mistakes> {
        let Some(path) = self.file.as_deref() else { return self.load() };
        let text = file::read_text(path, LONGEST).map(|(_, mut text)| std::mem::take(&mut *text));
        let upstreams = |text: &String| text.parse().map(|read: toml::Table| read.contains_key("upstream"));
        let names_none = self.flags.upstream.is_empty() && matches!(text.as_ref().map(upstreams), Ok(Ok(false)));
        let config = Config::load_text(Some((path, text)), &self.flags, &self.environment)?;
        if names_none && config.upstream != in_force {
            let mut mistakes = Mistakes::default();
            let text = "it has no [[upstream]] any more: was it written whole? Restart the server if the default, \
                        https://cache.nixos.org, is what you want";
            mistakes.say(&path.display().to_string(), text);
            return Err(mistakes);
        }
        Ok(config)
    }

    /// Looks for the sockets that a configuration from here names among those that this process was given.
    ///
    /// # Errors
    /// Everything that is not there, or is something else.
    pub fn check_sockets(&self, config: &Config, given: &Inherited) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        check::sockets::check(config, given, &self.flags.places(self.file.as_deref()), &mut mistakes);
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
    }
}
