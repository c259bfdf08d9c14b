//! Times on a command line.

use std::time::Duration;

/// Above zero.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = time_or_none(text)?;
    if time.is_zero() { Err("it must be above 0".to_owned()) } else { Ok(time) }
}

/// A number of seconds, or of what the unit after it says.
pub(super) fn time_or_none(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 3] = [("ms", 1e-3), ("s", 1.0), ("m", 60.0)];
    let unit = UNITS.into_iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let (number, seconds) = unit.unwrap_or((text, 1.0));
    let number: f64 =
        number.trim().parse().map_err(|_| "a time is written like 30, 30s, 500ms or 2m".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, ms) in [("30", 30_000), ("1.5s", 1500), ("500ms", 500), ("2m", 120_000)] {
            assert_eq!(time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "fast", "-1s", "0", "1h", "inf", "nan"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert_eq!(time_or_none("0"), Ok(Duration::ZERO));
    }
}
