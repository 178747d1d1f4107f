//! What exactly is wrong, where one kind of error has several causes.

use core::fmt;

/// Where a stream ends that is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inside {
    /// Behind a whole section, without an end mark.
    NoEndMark,
    /// The file header.
    FileHeader,
    /// The configuration section.
    Configuration,
    /// The header of a section, or a command.
    HeaderOrCommand,
    /// The body of a section.
    SectionBody,
    /// The footer of a section.
    SectionFooter,
    /// The device sections.
    DeviceSections,
    /// The device tail, whose end is recognised by EOF and a whole vmdesc, or by EOF as the last byte.
    DeviceTail,
    /// The vmdesc.
    Vmdesc,
    /// The block list of a mapped-ram file.
    MappedBlockList,
    /// The RAM of a mapped-ram file.
    MappedRam,
    /// A packet of a multifd channel.
    MultifdPacket,
    /// The data of a multifd packet.
    MultifdData,
    /// A message on the return path.
    ReturnPathMessage,
    /// The message with this number (from 1) of a channel.
    Message(u64),
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoEndMark => "without an end mark",
            Self::FileHeader => "inside the file header",
            Self::Configuration => "inside the configuration section",
            Self::HeaderOrCommand => "inside a section header or command",
            Self::SectionBody => "inside a section body",
            Self::SectionFooter => "inside a section footer",
            Self::DeviceSections => "inside the device sections",
            Self::DeviceTail => {
                "inside the device tail: no EOF with a whole vmdesc behind it, nor EOF as the last byte"
            }
            Self::Vmdesc => "inside the vmdesc",
            Self::MappedBlockList => "inside the mapped-ram block list",
            Self::MappedRam => "inside the RAM of a mapped-ram file",
            Self::MultifdPacket => "inside a multifd packet",
            Self::MultifdData => "inside the data of a multifd packet",
            Self::ReturnPathMessage => "inside a return path message",
            Self::Message(number) => return write!(f, "inside message {number}"),
        })
    }
}

/// How device sections, EOF and vmdesc do not fit each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TailError {
    /// The vmdesc is no JSON, or lacks what QEMU always writes ([`Vmdesc`](crate::device::Vmdesc)).
    #[error("the vmdesc is not a description of devices")]
    NoDescription,
    /// EOF is not where the last device section ends.
    #[error("EOF without a section footer before it")]
    NoFooterBeforeEof,
    /// Device sections before RAM end where only a vmdesc could confirm it, and there is none.
    #[error("device sections before RAM, and no vmdesc that confirms their end")]
    EarlyWithoutVmdesc,
    /// The vmdesc has another length for the device sections before RAM.
    #[error("the vmdesc does not confirm where the device sections before RAM end")]
    EarlyEnd,
    /// The vmdesc has a device more.
    #[error("described by the vmdesc, but not in the stream")]
    NotInStream,
    /// The vmdesc has no device for what is left.
    #[error("{bytes} bytes behind the last device of the vmdesc")]
    BehindLastDevice {
        /// How many bytes.
        bytes: usize,
    },
    /// Something else than a device section.
    #[error("no device section where the vmdesc has one")]
    NoSection,
    /// The header of the section is cut.
    #[error("device section is cut off")]
    Cut,
    /// Name or instance of the section differ.
    #[error("another device than the vmdesc has here")]
    OtherDevice,
    /// The section ends in another place, which cannot be determined.
    #[error("its footer is neither where the vmdesc has it nor before the next section")]
    FooterNotFound,
}

/// Why the end of device sections before RAM cannot be determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EarlyDevicesError {
    /// What they should be followed by is not there.
    #[error("no PART of the ram section behind them")]
    NoRamPart,
    /// There are two places at which they could end.
    #[error("two ram sections could begin among the early device sections")]
    TwoEnds,
}
