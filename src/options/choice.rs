//! Options with a closed set of words.

/// Declares an enum that is written as one of a few words.
///
/// The documentation of a variant is for whoever reads the code; what an operator has to know about the words stands at
/// the option.
///
/// ```
/// snowbank::choice! {
///     /// How it is done.
///     pub enum Manner {
///         /// At once.
///         Fast = "fast",
///         /// Later.
///         Slow = "slow",
///     }
/// }
/// use snowbank::options::Value;
/// assert_eq!("slow".parse(), Ok(Manner::Slow));
/// assert_eq!(Manner::accepted(), "\"fast\" or \"slow\"");
/// ```
#[macro_export]
macro_rules! choice {
    ($(#[$meta:meta])* pub enum $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $text:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[$vmeta])* $variant ),* }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $( Self::$variant => $text ),* })
            }
        }

        impl std::str::FromStr for $name {
            type Err = ();
            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $( $text => Ok(Self::$variant), )* _ => Err(()) }
            }
        }

        $crate::string_value!($name, &[$( concat!("\"", $text, "\"") ),*].join(" or "));
    };
}
