"""E parts and t's parts."""
import pickle, glob, numpy as np
from pathlib import Path
from feat import victim_of
from bdbench_datamodel import transfer, evidence
def parts(classes, effects, known):
    strengths=[np.array([np.log(max(e.strength,evidence._LEAST_STRENGTH))+evidence._odds(g.sharpness) for g,e in zip(*b)]) for b in zip(classes,effects)]
    usual, reach = evidence._usual(classes,strengths), evidence._reach(classes,effects,known)
    out=[]
    for groups,own,strong in zip(classes,effects,strengths):
        for g,e,s in zip(groups,own,strong):
            beyond=s-usual[g.kind]; kn=known.kappa(g)**3; deep=kn*max(0.,-e.alone/reach)
            nat=1-kn*(1-min(1,deep/evidence._DEEP))
            out.append(dict(beyond=beyond if beyond<=0 else beyond*nat, deep=deep, raw=beyond, kappa=kn))
    return out
def shares(predict, images, labels, classes, rng):
    strangers=transfer._drawn(labels,rng); base={l:predict(images[d]) for l,d in strangers.items()}; out=[]
    for groups in classes:
        others=[l for l in strangers if l!=groups[0].label]; shown=images[np.concatenate([strangers[l] for l in others])]
        before=np.concatenate([base[l] for l in others])==groups[0].label; starts=np.cumsum([0]+[len(strangers[l]) for l in others[:-1]])
        own=[]
        for g in groups:
            if g.kind=="rest": own.append(own[0][::-1]); continue
            d=transfer._difference(images,g)
            own.append([transfer._by_class((predict(transfer._moved(shown,s*d))==g.label).astype(float)-before,starts) for s in (1,-1)])
        out.append(own)
    return out
if __name__=="__main__":
    Path("/work/tmp/tr/f2").mkdir(exist_ok=True)
    for f in sorted(glob.glob("/work/tmp/tr/sets/*.pkl")):
        o=Path(f.replace("/sets/","/f2/"))
        if o.exists(): continue
        try: g=pickle.load(open(f,"rb"))
        except EOFError: continue
        T=shares(victim_of(g).predict,g["images"],g["labels"],g["classes"],np.random.default_rng(0))
        P=parts(g["classes"],g["effects"],g["known"]); i=0; rows=[]; roles=g["roles"]; y=g["labels"]
        for groups,effs,t in zip(g["classes"],g["effects"],T):
            for s,e,tt in zip(groups,effs,t):
                p,m=[np.maximum(q,0) for q in tt]
                rows.append(dict(P[i],t=float(np.sqrt((p*m).mean())),p=p,m=m,kind=s.kind,label=s.label,n=int(s.members.sum()),size=len(s.examples),sharp=s.sharpness,strength=e.strength,alone=e.alone,
                    poisons=int((roles[s.group]==1).sum()),class_poisons=int(((roles==1)&(y==s.label)).sum()))); i+=1
        pickle.dump(dict(rows=rows,attack=g["attack"],seed=g["seed"],dataset=g["dataset"],name=Path(f).stem,K=len(g["classes"]),p=g["judged"].p_value),open(o,"wb"))
