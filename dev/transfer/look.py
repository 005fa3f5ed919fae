import json,glob,sys,collections
rows=collections.defaultdict(list)
for f in sorted(glob.glob(sys.argv[1]+"/*.json")):
    d=json.load(open(f)); c=d["config"]; de=c["defense"]
    if de["name"]!="datamodel" or de["score_by"]!="auto": continue
    a=c["attack"]; n=c["dataset"]["name"]+str(c["dataset"].get("subset") or "")+" "+(a["name"] if isinstance(a,dict) else "casc")+(f" {a.get('rate')} {a.get('mapping','')} {a.get('targets','')}" if isinstance(a,dict) else "")
    if len(sys.argv)>2 and not d["environment"]["processor"].__contains__(sys.argv[2]): continue
    det=d.get("detection") or {}; dec=d.get("decision") or {}; af=d.get("after") or {}; da=dec.get("after") or {}
    r=lambda x:None if x is None else round(x,3)
    rows[n].append((d["seed"],r(det.get("auroc")),r(d.get("p_value")),r(dec.get("tpr")),r(dec.get("fpr")),r(af.get("attack_success_rate")),r(da.get("attack_success_rate")),r((d["before"] or {}).get("attack_success_rate"))))
for k,v in rows.items():
    print(k)
    for x in v: print("   ",x)
