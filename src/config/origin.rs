//! Where a configuration comes from, kept so that it can be read again.

use std::path::PathBuf;

use super::{Config, Environment, Flags, check};
use crate::inherited::Inherited;
use crate::options::Mistakes;

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
