import pickle,glob,sys,numpy as np
from bdbench_datamodel import evidence as ev
from sklearn.metrics import roc_auc_score
def parts(g):
    classes,effects,known,T=g["classes"],g["effects"],g["known"],g["transfers"]
    strengths=[np.array([np.log(max(e.strength,ev._LEAST_STRENGTH))+ev._odds(s.sharpness) for s,e in zip(*b)]) for b in zip(classes,effects)]
    usual,reach=ev._usual(classes,strengths),ev._reach(classes,effects,known)
    rows=[]; odds=[[0.0]*len(x) for x in classes]
    for groups,own,st,t,E in zip(classes,effects,strengths,T,odds):
        for s,e,x,tt,q in zip(groups,own,st,t,E):
            k=known.kappa(s)**3; deep=max(0,-e.alone/reach)
            rows.append(dict(label=s.label,kind=s.kind,n=int(s.members.sum()),size=len(s.examples),pois=int((g["roles"][s.group]==1).sum()),cp=int((g["roles"][s.examples]==1).sum()),beyond=x-usual[s.kind],deep=deep,k=k,t=tt,E=q,agree=e.agreement,expl=s.explained,alone=e.alone,strength=e.strength,sharp=s.sharpness))
    return rows
if __name__=="__main__":
    for f in sorted(glob.glob(f"/work/tmp/tr/sets4/{sys.argv[1]}.pkl")):
        g=pickle.load(open(f,"rb")); P=g["roles"]==1; j=g["judged"]
        auc=roc_auc_score(P,j.scores) if P.any() else float("nan")
        print(f.split("/")[-1][:-4],f"auc {auc:.3f} p {j.p_value:.4f} tpr {j.flagged[P].mean() if P.any() else 0:.2f} fpr {j.flagged[~P].mean():.3f}")
        rs=parts(g); lim=sorted([r["E"] for r in rs],reverse=True)[:3]
        for r in rs:
            if r["cp"] or r["E"]>=lim[-1]:
                tag="P" if r["pois"]>.5*r["n"] else ("r" if r["cp"] else " ")
                print(f"  {tag} {r['label']} {r['kind']:9s} {r['pois']}/{r['n']} of {r['cp']}/{r['size']} E {r['E']:.2f} beyond {r['beyond']:.2f} deep {r['deep']:.2f} k {r['k']:.2f} t {r['t']:.3f} agree {r['agree']:.2f} expl {r['expl']:.2f} strength {r['strength']:.1f} alone {r['alone']:.1f} sharp {r['sharp']:.2f}")
