//! Values of fields: numbers, addresses, prefixes, masks, flags, and the other way round.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::rule::field::{Field, Notation};
use crate::rule::port::RulePort;

use super::PortNames;
use super::cursor::Piece;
use super::error::TextError;
use super::names::{port, port_text};

/// TCP's flags, lowest bit first.
const TCP_FLAGS: [&str; 9] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"];

/// States of fragmentation as bits of [`Field::IpFrag`]: name, value, mask.
const FRAGS: [(&str, u128, u128); 5] =
    [("no", 0, 3), ("yes", 1, 1), ("first", 1, 3), ("later", 3, 3), ("not_later", 0, 2)];

/// A number, decimal or after `0x` hexadecimal, of at most `max`.
///
/// # Errors
/// It is something else or larger.
pub(super) fn number(piece: Piece<'_>, max: u128) -> Result<u128, TextError> {
    let text = piece.text();
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let wrong = || piece.error(format!("a number from 0 to {max} or, after 0x, in hexadecimal"));
    // Open vSwitch takes 010 for 8: better none than another value.
    let octal = radix == 10 && digits.len() > 1 && digits.starts_with('0');
    if octal || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    u128::from_str_radix(digits, radix).ok().filter(|&number| number <= max).ok_or_else(wrong)
}

/// A number of type `T`, whose largest value is `max`.
///
/// # Errors
/// It is something else or larger.
pub(super) fn number_as<T: TryFrom<u128> + Copy>(piece: Piece<'_>, max: T) -> Result<T, TextError>
where
    u128: From<T>,
{
    let number = number(piece, u128::from(max))?;
    T::try_from(number).map_err(|_| piece.error("a smaller number"))
}

/// The bits of a field that a text gives, and their mask: all of the field unless the text says otherwise.
///
/// # Errors
/// It is no value of the field.
pub(super) fn value_and_mask(
    field: Field,
    piece: Piece<'_>,
    names: &dyn PortNames,
) -> Result<(u128, u128), TextError> {
    if piece.text() == "*" || piece.text() == "ANY" && field.notation() != Notation::Port {
        return Ok((0, 0));
    }
    match field.notation() {
        Notation::Frag => {
            if let Some(&(_, value, mask)) = FRAGS.iter().find(|(name, ..)| *name == piece.text()) {
                return Ok((value, mask));
            }
        }
        Notation::TcpFlags if piece.text().starts_with(['+', '-']) => return tcp_flags(piece),
        _ => {}
    }
    let (value, mask) = match piece.split_once("/") {
        None => (single(field, piece, names)?, field.full_mask()),
        Some((_, mask)) if field.notation() == Notation::Port => {
            return Err(mask.error("no mask, as a port is either meant or not"));
        }
        Some((value, mask)) => (single(field, value, names)?, mask_of(field, mask, names)?),
    };
    Ok((value & mask, mask))
}

/// Makes sure that a field can have a value.
///
/// # Errors
/// It cannot; says so of `piece`.
pub(super) fn check_value(field: Field, value: u128, piece: Piece<'_>) -> Result<(), TextError> {
    match value & !field.full_mask() {
        0 => Ok(()),
        _ => Err(piece.error(format!("a value of {} from 0 to {}", field.name(), field.full_mask()))),
    }
}

/// The value of a field that a text without a mask gives.
///
/// # Errors
/// It is no value of the field.
pub(super) fn single(field: Field, piece: Piece<'_>, names: &dyn PortNames) -> Result<u128, TextError> {
    let text = piece.text();
    match field.notation() {
        Notation::Decimal | Notation::Hex => number(piece, field.full_mask()),
        Notation::Mac => mac(text).ok_or_else(|| piece.error("an address such as 02:00:00:00:00:01")),
        Notation::Ipv4 => ipv4(text).ok_or_else(|| piece.error("an address such as 10.0.0.1")),
        Notation::Ipv6 => ipv6(text).ok_or_else(|| piece.error("an address such as fd00::1")),
        Notation::Port => port(piece, names).map(|port| match field.bits() {
            32 => u128::from(port.number_oxm()),
            _ => u128::from(port.number()),
        }),
        Notation::Frag => match FRAGS.iter().find(|(name, ..)| *name == text) {
            Some(&(_, value, _)) => Ok(value),
            None => number(piece, field.full_mask())
                .map_err(|_| piece.error("one of no, yes, first, later and not_later")),
        },
        Notation::TcpFlags if text.starts_with('+') => tcp_flags(piece).map(|(value, _)| value),
        Notation::TcpFlags if text.starts_with(|first: char| first.is_ascii_alphabetic()) => text
            .split('|')
            .try_fold(0, |sum, name| Some(sum | tcp_flag(name)?))
            .ok_or_else(|| flags_error(piece)),
        Notation::TcpFlags => number(piece, field.full_mask()).map_err(|_| flags_error(piece)),
    }
}

/// The mask of a field: a value, or for IP addresses also the length of a prefix.
fn mask_of(field: Field, piece: Piece<'_>, names: &dyn PortNames) -> Result<u128, TextError> {
    let bits = u32::from(field.bits());
    let of_address = matches!(field.notation(), Notation::Ipv4 | Notation::Ipv6);
    if !of_address || piece.text().contains(['.', ':']) {
        return single(field, piece, names);
    }
    let len = number(piece, u128::from(bits)).map_err(|_| {
        piece.error(format!("the length of a prefix, at most {bits}, or a mask written as an address"))
    })?;
    Ok(prefix(bits, u32::try_from(len).unwrap_or(bits)))
}

/// The first `len` of `bits` bits.
fn prefix(bits: u32, len: u32) -> u128 {
    let all = u128::MAX >> (128 - bits);
    all & !all.checked_shr(len).unwrap_or(0)
}

fn tcp_flag(name: &str) -> Option<u128> {
    TCP_FLAGS.iter().position(|flag| *flag == name).map(|bit| 1 << bit)
}

fn flags_error(piece: Piece<'_>) -> TextError {
    piece.error(format!("flags such as +syn-ack or a number below 0x1000; they are {}", TCP_FLAGS.join(", ")))
}

/// `+syn-ack`: flags that are set, and flags that are not.
fn tcp_flags(piece: Piece<'_>) -> Result<(u128, u128), TextError> {
    let (mut value, mut mask) = (0, 0);
    let mut rest = piece.text();
    while let Some(sign) = rest.chars().next() {
        let behind = &rest[sign.len_utf8()..];
        let len = behind.find(['+', '-']).unwrap_or(behind.len());
        let flag = tcp_flag(&behind[..len]).filter(|flag| matches!(sign, '+' | '-') && mask & flag == 0);
        let flag = flag.ok_or_else(|| flags_error(piece))?;
        mask |= flag;
        value |= if sign == '+' { flag } else { 0 };
        rest = &behind[len..];
    }
    Ok((value, mask))
}

fn mac(text: &str) -> Option<u128> {
    let mut parts = text.split(':');
    let address = parts.by_ref().take(6).try_fold((0, 0), |(address, count), part| {
        let fits = matches!(part.len(), 1 | 2) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let byte = fits.then(|| u128::from_str_radix(part, 16).ok())??;
        Some((address << 8 | byte, count + 1))
    });
    address.filter(|&(_, count)| count == 6 && parts.next().is_none()).map(|(address, _)| address)
}

fn ipv4(text: &str) -> Option<u128> {
    text.parse::<Ipv4Addr>().ok().map(|address| u128::from(address.to_bits()))
}

fn ipv6(text: &str) -> Option<u128> {
    text.parse::<Ipv6Addr>().ok().map(Ipv6Addr::to_bits)
}

/// How many bits a prefix's mask has; `None` if it is none.
fn prefix_len(bits: u32, mask: u128) -> Option<u32> {
    let len = mask.count_ones();
    (mask == prefix(bits, len)).then_some(len)
}

/// A value of a field as text.
pub(super) fn single_text(field: Field, value: u128, names: &dyn PortNames) -> String {
    match field.notation() {
        Notation::Decimal => value.to_string(),
        Notation::Hex | Notation::Frag => format!("{value:#x}"),
        Notation::TcpFlags => format!("{value:#05x}"),
        Notation::Mac => {
            let bytes = value.to_be_bytes();
            let pairs: Vec<String> = bytes[10..].iter().map(|byte| format!("{byte:02x}")).collect();
            pairs.join(":")
        }
        Notation::Ipv4 => {
            let bytes = value.to_be_bytes();
            Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]).to_string()
        }
        Notation::Ipv6 => Ipv6Addr::from_bits(value).to_string(),
        Notation::Port => {
            let port = u32::try_from(value).ok().and_then(RulePort::new);
            port.map_or_else(|| value.to_string(), |port| port_text(port, names))
        }
    }
}

/// A value of a field and its mask as text, without the mask if it is full.
pub(super) fn masked_text(field: Field, value: u128, mask: u128, names: &dyn PortNames) -> String {
    let bits = u32::from(field.bits());
    if field.notation() == Notation::Frag
        && let Some((name, ..)) = FRAGS.iter().find(|&&(_, v, m)| (v, m) == (value, mask))
    {
        return (*name).to_owned();
    }
    if mask == field.full_mask() {
        return single_text(field, value, names);
    }
    match field.notation() {
        Notation::Decimal | Notation::Hex | Notation::Frag | Notation::Port => {
            format!("{value:#x}/{mask:#x}")
        }
        Notation::TcpFlags if mask >> TCP_FLAGS.len() == 0 => flags_text(value, mask),
        Notation::TcpFlags => format!("{value:#05x}/{mask:#05x}"),
        Notation::Ipv4 | Notation::Ipv6 if prefix_len(bits, mask).is_some() => {
            format!("{}/{}", single_text(field, value, names), mask.count_ones())
        }
        Notation::Mac | Notation::Ipv4 | Notation::Ipv6 => {
            format!("{}/{}", single_text(field, value, names), single_text(field, mask, names))
        }
    }
}

fn flags_text(value: u128, mask: u128) -> String {
    let mut text = String::new();
    for (bit, name) in TCP_FLAGS.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1) {
        let sign = if value >> bit & 1 == 1 { '+' } else { '-' };
        // Writing to a string cannot fail.
        let _ = write!(text, "{sign}{name}");
    }
    text
}
