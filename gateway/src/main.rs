//! The program: everything is in the library beside it, so that fuzz targets reach what reads outside bytes.

use std::process::ExitCode;

fn main() -> ExitCode {
    ollystack_gateway::main()
}
