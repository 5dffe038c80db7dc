//! Record types shared by the kernel programs and the agent, and the built kernel objects.
