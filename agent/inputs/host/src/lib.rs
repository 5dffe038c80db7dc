//! Host metrics: system, process and container, each second.
