module ollystack.test/talk

go 1.21
