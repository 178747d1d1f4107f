//! Colours that those who do not see red or green can tell apart (Okabe and Ito), each of another
//! lightness; what is hot or has changed has a mark in its middle as well.

use super::Cell;

/// Red, green, blue.
pub(super) type Colour = [u8; 3];

/// What is drawn in the middle of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    None,
    /// Hot: light.
    Light,
    /// Changed: dark.
    Dark,
}

impl Mark {
    pub(super) fn colour(self) -> Option<Colour> {
        match self {
            Self::None => None,
            Self::Light => Some([0xff, 0xff, 0xff]),
            Self::Dark => Some([0x00, 0x00, 0x00]),
        }
    }
}

/// How a cell looks. What has changed is shown before what is hot, and that before its content.
pub(super) fn look(cell: Cell) -> (Colour, Mark) {
    match (cell.changed, cell.hot, cell.content) {
        (true, _, _) => ([0xd5, 0x5e, 0x00], Mark::Dark),
        (_, true, 0) => ([0xf6, 0xdc, 0x9a], Mark::Light),
        (_, true, _) => ([0xe6, 0x9f, 0x00], Mark::Light),
        (_, _, 0) => ([0xe8, 0xe8, 0xe8], Mark::None),
        (_, _, 1) => ([0x7c, 0xc4, 0xee], Mark::None),
        _ => ([0x00, 0x5a, 0x9c], Mark::None),
    }
}

/// What looks may mean: the words, and a cell that looks so.
pub(super) const LEGEND: [(&str, Cell); 6] = [
    ("zero", Cell { content: 0, hot: false, changed: false }),
    ("compressible (entropy below 6 bits a byte)", Cell { content: 1, hot: false, changed: false }),
    ("not compressible", Cell { content: 2, hot: false, changed: false }),
    ("hot: sent more than once, or requested first", Cell { content: 1, hot: true, changed: false }),
    ("hot, and zero", Cell { content: 0, hot: true, changed: false }),
    ("changed", Cell { content: 1, hot: false, changed: true }),
];
