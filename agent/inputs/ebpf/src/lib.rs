//! What the kernel sees: processes, TCP connections and HTTP requests, without touching an application.
