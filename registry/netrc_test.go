package registry

import (
	"reflect"
	"testing"
)

func TestNetrc(t *testing.T) {
	machines, others := parseNetrc("machine One login l password \"p w\\\"\" account a\n# machine no login x\ndefault login d password e\nmachine one login second")
	if want := map[string]netrcLogin{"one": {"l", `p w"`}}; !reflect.DeepEqual(machines, want) || others == nil || *others != (netrcLogin{"d", "e"}) {
		t.Errorf("%v, %v", machines, others)
	}
}

func FuzzNetrc(f *testing.F) {
	f.Add("machine h login \"a b\" password p # x\ndefault login d")
	f.Add("machine a login b\nmacdef m\nmachine evil login x\n\nmachine c password \"d\\\"e\"")
	f.Add("machine")
	f.Add("default default machine machine login")
	f.Fuzz(func(t *testing.T, text string) {
		machines, _ := parseNetrc(text)
		if _, has := machines[""]; has {
			t.Error("a machine without a name")
		}
	})
}
