//! Log files: tailing with rotation and durable offsets.
