package ipam

import (
	"fmt"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// FrozenAnnotation on a pool, or on a namespace, freezes it: nothing is claimed there, and
// nothing given back. What machines have goes on being adopted, and is rebuilt. Its value
// says why, for people.
const FrozenAnnotation = "capv-static-ip.dev/frozen"

// FreezeFlag is the flag of the manager that freezes all that it serves.
const FreezeFlag = "--freeze"

// maxWhy bounds what is told of why something is frozen: it goes into denials and events.
const maxWhy = 200

// Freeze is what freezes a pool.
type Freeze struct {
	// What is frozen, as in a sentence.
	What string
	// Why is what somebody has written there, in one line.
	Why string
	// Until is what has to be done to end it.
	Until string
}

// FrozenBy decides whether claims on a pool are frozen, by what is the same for most: the
// manager's flag, then the namespace of the claims, then the pool. It is nil if none of them
// says so. A pool or a namespace that is not there, or does not matter, is a nil object.
func FrozenBy(pool Pool, namespace client.Object, flag string) *Freeze {
	if flag != "" {
		return &Freeze{What: "capv-static-ip", Why: inOneLine(flag), Until: "start the manager without " + FreezeFlag}
	}
	if namespace != nil {
		if why, frozen := IsFrozen(namespace); frozen {
			return &Freeze{What: fmt.Sprintf("namespace %q", namespace.GetName()), Why: why, Until: "take annotation " + FrozenAnnotation + " off it"}
		}
	}
	if pool.Object != nil {
		if why, frozen := IsFrozen(pool); frozen {
			return &Freeze{What: pool.Reference.In(pool.GetNamespace()), Why: why, Until: "take annotation " + FrozenAnnotation + " off it"}
		}
	}
	return nil
}

// IsFrozen tells whether a pool or a namespace says that it is frozen, and why. One that
// does not say why is frozen as well.
func IsFrozen(obj client.Object) (why string, frozen bool) {
	text, frozen := obj.GetAnnotations()[FrozenAnnotation]
	return inOneLine(text), frozen
}

// inOneLine is what people wrote, as it fits into a sentence.
func inOneLine(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "")), " ")
	if runes := []rune(text); len(runes) > maxWhy {
		text = string(runes[:maxWhy]) + "…"
	}
	return text
}

// String says what is frozen, and why.
func (f *Freeze) String() string {
	if f.Why == "" {
		return f.What + " is frozen"
	}
	return fmt.Sprintf("%s is frozen (%s)", f.What, f.Why)
}

// Refuse is the refusal of whoever wants something of what is frozen.
func (f *Freeze) Refuse() error {
	return Refuse(Frozen, "%s: wait until that is over; to end it, %s", f, f.Until)
}
