package allocator

import "errors"

// ErrMachineExists says that a machine of this name lives already: the API
// server will answer the create with a conflict, and the claims found belong
// to the living machine.
var ErrMachineExists = errors.New("a machine of this name exists")
