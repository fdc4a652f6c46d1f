//! Amounts in Kubernetes' quantity syntax: `250m` CPU, `64Mi` of memory, `1e3`, `0.5`.

use std::{
    cmp::Ordering,
    fmt, hash,
    ops::{Add, Sub},
    str::FromStr,
};

/// An exact amount down to a billionth, which remembers how it was written.
///
/// Two quantities are equal when their amounts are: `1024Mi` equals `1Gi`.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// n, u, m, none, k, M, G, T, P, E
    Decimal,
    /// Ki, Mi, Gi, Ti, Pi, Ei
    Binary,
    /// e3
    Exponent,
}

/// Text that is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("{0:?} is not a quantity such as \"250m\", \"0.5\", \"64Mi\" or \"1G\"")]
    Syntax(String),
    #[error("{0:?} has an unknown unit; use one of n, u, m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei or e3")]
    Unit(String),
    #[error("{0:?} is larger than a quantity can be (2^63 - 1)")]
    TooLarge(String),
}

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;
/// More digits than any quantity needs; more are an attempt to cost time.
const MAX_TEXT: usize = 64;

const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [(&str, u32); 6] = [
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];

impl Quantity {
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::Decimal,
    };

    /// An amount of thousandths: CPU.
    pub fn from_milli(milli: i64) -> Self {
        Self {
            nanos: i128::from(milli) * (NANO / 1000),
            format: Format::Decimal,
        }
    }

    /// An amount of bytes, written with binary units where they fit.
    pub fn from_bytes(bytes: i64) -> Self {
        Self {
            nanos: i128::from(bytes) * NANO,
            format: Format::Binary,
        }
    }

    /// A count, written with decimal units.
    pub fn from_count(count: i64) -> Self {
        Self {
            nanos: i128::from(count) * NANO,
            format: Format::Decimal,
        }
    }

    /// Thousandths, rounded up; `i64::MAX` where there are more.
    pub fn milli(self) -> i64 {
        saturate(div_up(self.nanos, NANO / 1000))
    }

    /// Wholes, rounded up: bytes, or a count.
    pub fn value(self) -> i64 {
        saturate(div_up(self.nanos, NANO))
    }

    /// How many of the divisor there are in it, rounded up; of a divisor that is not positive, none.
    pub fn divided_up(self, divisor: Self) -> i64 {
        if divisor.nanos <= 0 {
            return 0;
        }
        saturate(div_up(self.nanos, divisor.nanos))
    }

    /// Whether it is at most so many times another; no amount is a multiple of nothing but nothing.
    pub fn is_at_most(self, other: Self, times: Self) -> bool {
        let most = other.nanos.checked_mul(times.nanos).map(|product| product / NANO);
        most.is_none_or(|most| self.nanos <= most)
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// False for a part of one, such as half a byte.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }
}

/// CPU in thousandths of a core, rounded up.
pub fn milli_cpu(text: &str) -> Result<i64, QuantityError> {
    text.parse::<Quantity>().map(Quantity::milli)
}

/// Bytes, rounded up.
pub fn bytes(text: &str) -> Result<i64, QuantityError> {
    text.parse::<Quantity>().map(Quantity::value)
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let syntax = || QuantityError::Syntax(text.to_owned());
        if text.len() > MAX_TEXT {
            return Err(QuantityError::Syntax(format!(
                "{}…",
                text.chars().take(MAX_TEXT).collect::<String>()
            )));
        }
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let number_end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, unit) = unsigned.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(syntax());
        }
        let (format, scale) = parse_unit(unit).ok_or_else(|| QuantityError::Unit(text.to_owned()))?;
        let nanos = scaled(whole, fraction, scale).ok_or_else(|| QuantityError::TooLarge(text.to_owned()))?;
        Ok(Self {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, and the largest unit that needs none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos / NANO;
        if self.format == Format::Binary && self.is_whole() && whole.abs() >= 1024 {
            let power = (whole.trailing_zeros() / 10).min(6);
            return match power.checked_sub(1) {
                None => write!(f, "{whole}"),
                Some(unit) => write!(f, "{}{}", whole >> (power * 10), BINARY[unit as usize].0),
            };
        }
        let mut amount = self.nanos;
        let mut exponent = -9;
        while amount % 1000 == 0 && exponent < 18 {
            amount /= 1000;
            exponent += 3;
        }
        if self.format == Format::Exponent && exponent != 0 {
            return write!(f, "{amount}e{exponent}");
        }
        let unit = DECIMAL
            .iter()
            .find(|(_, power)| *power == exponent)
            .map_or("", |(unit, _)| unit);
        write!(f, "{amount}{unit}")
    }
}

/// Written as the first was; at the largest amount that there is, it stays.
impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            nanos: (self.nanos + other.nanos).clamp(-MAX, MAX),
            format: if self.is_zero() { other.format } else { self.format },
        }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            nanos: (self.nanos - other.nanos).clamp(-MAX, MAX),
            format: self.format,
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl hash::Hash for Quantity {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

fn parse_unit(unit: &str) -> Option<(Format, Scale)> {
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == unit) {
        return Some((Format::Decimal, Scale::Ten(*power)));
    }
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == unit) {
        return Some((Format::Binary, Scale::Two(*power)));
    }
    // "E" alone is exa, found above; "E3" is an exponent.
    let exponent: i32 = unit.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((Format::Exponent, Scale::Ten(exponent)))
}

/// The number in billionths, rounded up; None when it is too large.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> Option<i128> {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let fraction_digits = i32::try_from(fraction.len()).ok()?;
    let (factor, power) = match scale {
        Scale::Ten(power) => (1, power.checked_add(9)?.checked_sub(fraction_digits)?),
        Scale::Two(bits) => (1_i128 << bits, 9 - fraction_digits),
    };
    let mantissa: i128 = digits.parse().ok()?;
    let amount = mantissa.checked_mul(factor)?;
    let nanos = if power >= 0 {
        amount.checked_mul(10_i128.checked_pow(power.unsigned_abs())?)?
    } else {
        // A divisor beyond i128 leaves less than a billionth, which rounds up to one.
        10_i128
            .checked_pow(power.unsigned_abs())
            .map_or(1, |divisor| div_up(amount, divisor))
    };
    (nanos <= MAX).then_some(nanos)
}

fn div_up(amount: i128, divisor: i128) -> i128 {
    let quotient = amount.div_euclid(divisor);
    if amount.rem_euclid(divisor) == 0 {
        quotient
    } else {
        quotient + 1
    }
}

fn saturate(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("250m", 250)]
    #[case("0.5", 500)]
    #[case(".5", 500)]
    #[case("2", 2000)]
    #[case("2.", 2000)]
    #[case("1e3", 1_000_000)]
    #[case("1E-3", 1)]
    #[case("100u", 1)]
    #[case("-1", -1000)]
    #[case("0", 0)]
    fn cpu_is_read_in_thousandths_rounded_up(#[case] text: &str, #[case] milli: i64) {
        assert_eq!(milli_cpu(text).unwrap(), milli);
    }

    #[rstest]
    #[case("64Mi", 64 << 20)]
    #[case("1.5Gi", 3 << 29)]
    #[case("1G", 1_000_000_000)]
    #[case("1E", 1_000_000_000_000_000_000)]
    #[case("0.1Ki", 103)]
    #[case("9223372036854775807", i64::MAX)]
    fn memory_is_read_in_bytes_rounded_up(#[case] text: &str, #[case] expected: i64) {
        assert_eq!(bytes(text).unwrap(), expected);
    }

    #[rstest]
    #[case("")]
    #[case("m")]
    #[case("-")]
    #[case("1.2.3")]
    #[case("1 Gi")]
    #[case("1GB")]
    #[case("1mi")]
    #[case("0x10")]
    #[case("1e")]
    #[case("1e99999999999")]
    #[case("NaN")]
    #[case("8Ei")]
    #[case("9223372036854775808")]
    #[case("1e2000000000")]
    fn what_is_not_a_quantity_is_refused(#[case] text: &str) {
        assert!(text.parse::<Quantity>().is_err());
    }

    #[rstest]
    #[case("1000m", "1")]
    #[case("1024Mi", "1Gi")]
    #[case("1500Mi", "1500Mi")]
    #[case("1000Ki", "1000Ki")]
    #[case("512", "512")]
    #[case("0.5Gi", "512Mi")]
    #[case("1500000", "1500k")]
    #[case("1.5", "1500m")]
    #[case("12e6", "12e6")]
    #[case("100e0", "100")]
    #[case("-2048Ki", "-2Mi")]
    #[case("0Gi", "0")]
    #[case("1e-7", "100e-9")]
    fn the_canonical_form_has_no_fraction_and_the_largest_unit(#[case] text: &str, #[case] canonical: &str) {
        assert_eq!(text.parse::<Quantity>().unwrap().to_string(), canonical);
    }

    #[test]
    fn quantities_compare_by_amount() {
        let read = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(read("1Gi"), read("1024Mi"));
        assert!(read("1G") < read("1Gi"));
        assert_eq!(Quantity::from_bytes(1 << 26).to_string(), "64Mi");
        assert_eq!(Quantity::from_milli(1500).to_string(), "1500m");
    }

    proptest! {
        #[test]
        fn reading_any_text_never_panics(text in "\\PC{0,80}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn the_canonical_form_reads_back_as_the_same_amount(
            number in "-?[0-9]{1,12}(\\.[0-9]{1,11})?",
            unit in prop::sample::select(vec!["n","u","m","","k","M","G","Ki","Mi","Gi","e3","E-2"]),
        ) {
            if let Ok(quantity) = format!("{number}{unit}").parse::<Quantity>() {
                let canonical = quantity.to_string();
                let again: Quantity = canonical.parse().unwrap();
                prop_assert_eq!(again, quantity);
                prop_assert_eq!(again.to_string(), canonical);
            }
        }

        #[test]
        fn bytes_survive_their_own_format(count in any::<i64>()) {
            prop_assume!(count != i64::MIN);
            prop_assert_eq!(bytes(&Quantity::from_bytes(count).to_string()).unwrap(), count);
        }
    }
}
