//! Tables and numbers for the terminal: aligned columns, units, and nothing that a program should read. Programs use
//! `--json`.

/// A number in groups of three digits: `1 234 567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A size with three digits or so: `1.5 MB`; units are powers of 1000.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit_size = 1000;
    for (i, unit) in UNITS.iter().enumerate() {
        let last = i == UNITS.len() - 1;
        if number < unit_size {
            break;
        }
        if last || number / 1000 < unit_size {
            let (whole, tenth) = (number / unit_size, number % unit_size / (unit_size / 10));
            return format!("{whole}.{tenth} {unit}");
        }
        unit_size *= 1000;
    }
    format!("{number} B")
}

/// A time in its two largest units: `0.250s`, `59.0s`, `3m20s`, `2h5m`, `4d3h`.
pub(super) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("0.{:03}s", ms),
        1..60 => format!("{s}.{}s", ms % 1000 / 100),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86_400, s / 3600 % 24),
    }
}

/// Columns as wide as their widest cell.
pub(super) struct Table<const N: usize> {
    heads: Option<[&'static str; N]>,
    /// Whether a column's cells stand at its right edge.
    to_right: [bool; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with heads; a head that begins with `>` has its column aligned to the right.
    pub(super) fn new(heads: [&'static str; N]) -> Self {
        Self {
            to_right: heads.map(|head| head.starts_with('>')),
            heads: Some(heads.map(|head| head.trim_start_matches('>'))),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(printable));
    }

    /// The table's text, or `empty` where it has no rows.
    pub(super) fn finish(self, empty: &str) -> String {
        if self.rows.is_empty() {
            return format!("{empty}\n");
        }
        let heads = self.heads.map(|heads| heads.map(str::to_owned));
        let lines: Vec<[String; N]> = heads.into_iter().chain(self.rows).collect();
        let widths: [usize; N] =
            std::array::from_fn(|i| lines.iter().map(|cells| cells[i].chars().count()).max().unwrap_or(0));
        lines.iter().map(|cells| line(cells, &widths, &self.to_right)).collect()
    }
}

impl Table<2> {
    /// Names and values, without heads.
    pub(super) fn plain() -> Self {
        Self { heads: None, to_right: [false; 2], rows: Vec::new() }
    }
}

fn line<const N: usize>(cells: &[String; N], widths: &[usize; N], to_right: &[bool; N]) -> String {
    let padded: Vec<String> = cells
        .iter()
        .zip(widths.iter().zip(to_right))
        .map(
            |(cell, (&width, &to_right))| {
                if to_right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            },
        )
        .collect();
    format!("{}\n", padded.join("  ").trim_end())
}

/// Text of a guest's making, such as a fault, must not move the cursor.
pub(super) fn printable(text: String) -> String {
    if text.chars().any(char::is_control) { text.replace(char::is_control, "?") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_groups_and_units() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
        let sizes = [0, 999, 1000, 1549, 2_500_000, 7_000_000_000, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "1.5 kB", "2.5 MB", "7.0 GB", "18.4 EB"]);
        let times = [0, 42, 1500, 59_999, 200_000, 7_500_000, 356_400_000].map(duration);
        assert_eq!(times, ["0.000s", "0.042s", "1.5s", "59.9s", "3m20s", "2h5m", "4d3h"]);
    }

    #[test]
    fn columns_are_as_wide_as_their_cells_and_text_cannot_move_the_cursor() {
        let mut table = Table::new(["NAME", ">COUNT"]);
        table.row(["a".to_owned(), "7".to_owned()]);
        table.row(["long\nname".to_owned(), "12 345".to_owned()]);
        assert_eq!(table.finish(""), "NAME        COUNT\na               7\nlong?name  12 345\n");
        assert_eq!(Table::new(["NAME"]).finish("nothing"), "nothing\n");
    }
}
