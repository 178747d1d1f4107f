//! Source and destination with real memory, threads and page faults.

mod broken;
mod corpus;
mod cycles;
mod hostile;
mod order;
mod pair;
mod works;
