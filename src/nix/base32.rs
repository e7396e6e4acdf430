//! Nix's base 32: 32 digits without e, o, u and t, most significant digit first, over the bytes read as one little-endian
//! number.
//!
//! Not RFC 4648 in anything but the size of a digit. Decoding is strict, so that a value has one spelling: the length
//! must be one that encoding gives, and bits beyond the last byte must be zero (Nix: `src/libutil/base-nix-32.cc`).

use super::excerpt::Excerpt;

/// The digits by value.
const DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Marks a byte that is no digit in [`VALUES`].
const NO_DIGIT: u8 = 0xff;

/// The value of each byte as a digit.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value: u8 = 0;
    while value < 32 {
        values[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    values
};

/// Why a text is not base 32.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A character that is not one of the 32 digits.
    #[error("expected the digits 0-9 and a-z without e, o, u, t, found {0}")]
    Digit(Excerpt),
    /// No number of bytes is written with this many digits.
    #[error("{0} base 32 digits are no whole number of bytes")]
    Length(usize),
    /// The first digit says more than the last byte can hold, so the text is a second spelling of another value.
    #[error("bits beyond the last byte are set in {0}")]
    Excess(Excerpt),
}

/// How many digits `bytes` bytes take.
const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// True for a byte that is one of the 32 digits.
pub const fn is_digit(byte: u8) -> bool {
    VALUES[byte as usize] != NO_DIGIT
}

/// Writes bytes as base 32.
pub fn encode(bytes: &[u8]) -> String {
    (0..encoded_len(bytes.len())).rev().map(|position| char::from(DIGITS[digit_at(bytes, position)])).collect()
}

/// The five bits at digit `position`, counted from the least significant.
fn digit_at(bytes: &[u8], position: usize) -> usize {
    let (byte, shift) = (position * 5 / 8, position * 5 % 8);
    let pair = u16::from_le_bytes([bytes[byte], bytes.get(byte + 1).copied().unwrap_or(0)]);
    usize::from((pair >> shift) & 0x1f)
}

/// Reads base 32.
///
/// # Errors
/// On a foreign character, on a length that encoding never gives, and on excess bits.
pub fn decode(text: &str) -> Result<Vec<u8>, Error> {
    if !text.bytes().all(is_digit) {
        return Err(Error::Digit(Excerpt::of(text)));
    }
    let len = text.len() * 5 / 8;
    if encoded_len(len) != text.len() {
        return Err(Error::Length(text.len()));
    }
    let mut bytes = vec![0_u8; len];
    for (position, digit) in text.bytes().rev().enumerate() {
        let (byte, shift) = (position * 5 / 8, position * 5 % 8);
        let [low, high] = (u16::from(VALUES[usize::from(digit)]) << shift).to_le_bytes();
        bytes[byte] |= low;
        match bytes.get_mut(byte + 1) {
            Some(next) => *next |= high,
            None if high != 0 => return Err(Error::Excess(Excerpt::of(text))),
            None => {}
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        // The SHA-256 of nothing, as `nix-hash --to-base32 --type sha256` writes it.
        let empty = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let bytes: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        assert_eq!(encode(&bytes), empty);
        assert_eq!(decode(empty).unwrap(), bytes);
        assert_eq!(encode(&[]), "");
        assert_eq!(encode(&[1]), "01");
        assert_eq!(encode(&[0xff]), "7z");
    }

    #[test]
    fn letters_outside_the_alphabet_are_refused() {
        for bad in ["e0", "o0", "u0", "t0", "A0", " 0", "0\n", "0\0", "é"] {
            assert!(matches!(decode(bad), Err(Error::Digit(_))), "{bad:?}");
        }
        assert_eq!((0..=255).filter(|&b| is_digit(b)).count(), 32);
    }

    #[test]
    fn lengths_that_encoding_never_gives_are_refused() {
        for len in [1, 3, 6, 9, 11, 14, 51, 54] {
            assert_eq!(decode(&"0".repeat(len)), Err(Error::Length(len)));
        }
    }

    #[test]
    fn excess_bits_are_refused() {
        assert_eq!(decode("7z").unwrap(), [0xff]);
        assert!(matches!(decode("8z"), Err(Error::Excess(_))));
        assert!(matches!(decode(&"z".repeat(52)), Err(Error::Excess(_))));
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decode(&encode(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn a_value_has_one_spelling(text in "[0-9a-z]{0,60}") {
            if let Ok(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
